"""What a folder in diffusers' layout says of its models, and models built by it, with clear errors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .tensor_entry import CheckpointError


def read_config(config: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """A model's configuration: a `config.json`, the folder that it is in, or what it says.

    Raises CheckpointError.
    """
    if isinstance(config, Mapping):
        return dict(config)
    path = Path(config) / "config.json" if Path(config).is_dir() else Path(config)
    try:
        found = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a configuration of diffusers ({error}). Copy its folder again.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is not a configuration of diffusers (it holds a {type(found).__name__}).")
    return found


@contextmanager
def built_by(config: str | Path | Mapping[str, Any]) -> Iterator[None]:
    """Raise CheckpointError where diffusers cannot build a model by a configuration: it raises what comes."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        what = "this configuration" if isinstance(config, Mapping) else str(config)
        why = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"diffusers cannot build a model by {what} ({type(error).__name__}: {why}). Copy it again, or update diffusers."
        ) from error
