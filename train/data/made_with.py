"""What a folder was made with: noted beside what it holds, so that
another run goes on with the same or is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .storage import join, publish, read_bytes


def claim(
    folder: str,
    name: str,
    what: str,
    plan: Mapping[str, Any],
    *,
    older: Mapping[str, Any] | None = None,
    words: Mapping[str, str] | None = None,
) -> None:
    """Note in the file `name` of `folder` with what `what` is made there, or
    make sure that it is made with the same.

    older: values of what a note that is there may lack, since there was no such option yet when it was written.
    words: what to call an entry whose values tell people nothing, such as a digest.

    Raises ValueError as `require_same` does, and for a note that cannot be read.
    """
    path = join(folder, name)
    try:
        found = dict(json.loads(read_bytes(path)))
    except FileNotFoundError:
        publish(path, json.dumps(plan, indent=1).encode())
        return
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: it does not tell what {folder} was made with. Delete {folder}.") from error
    require_same(folder, what, {**(older or {}), **found}, plan, words)


def require_same(
    folder: object, what: str, found: Mapping[str, Any], plan: Mapping[str, Any], words: Mapping[str, str] | None = None
) -> None:
    """Raise ValueError, naming all that differs, unless `what` in `folder` was made with `plan`."""
    changed = _differences(found, json.loads(json.dumps(plan)), words or {})
    if changed:
        listed = "; ".join(changed)
        raise ValueError(f"{folder} holds {what} made with other {listed}. Choose another folder, or delete this one.")


def _differences(found: Mapping[str, Any], now: Mapping[str, Any], words: Mapping[str, str]) -> list[str]:
    changed = []
    for name in [*now, *(name for name in found if name not in now)]:
        before, value = found.get(name), now.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            changed += _differences(before, value, words)
        elif value != before:
            changed.append(words.get(name) or f"{name} ({before}, now {value})")
    return changed
