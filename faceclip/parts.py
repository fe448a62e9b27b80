"""A model in several files: parts named NAME-00001-of-00003, with or without their index."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from .tensor_entry import CheckpointError, Entry, TensorFile

INDEX = ".index.json"
_PART = r"(.+)-(\d{5})-of-(\d{5})(\.\w+)"
_LARGEST_INDEX = 50_000_000


def siblings(path: Path) -> list[Path] | None:
    """All parts of the model that `path` is a part of, or the index of; None for a file that is whole.

    Raises CheckpointError that names the parts which are not there.
    """
    if path.name.endswith(INDEX):
        names = sorted(set(_index(path).values()))
    elif (match := re.fullmatch(_PART, path.name)) and int(match[3]) > 1:
        names = [f"{match[1]}-{number:05}-of-{match[3]}{match[4]}" for number in range(1, min(int(match[3]), 1000) + 1)]
    else:
        return None
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        what = "names" if path.name.endswith(INDEX) else f"is one of {len(names)} parts of a model, which has also"
        raise CheckpointError(
            f"{path} {what} {', '.join(missing[:4])}{' and more' if len(missing) > 4 else ''}, not there. Put all parts into "
            f"{path.parent}, then choose any of them."
        )
    return [path.parent / name for name in names]


def join(path: Path, parts: list[Path], open_one: Callable[[Path], TensorFile]) -> TensorFile:
    """The parts as one file. Raises CheckpointError where two hold one tensor, or a part lacks what the index says."""
    files = [open_one(part) for part in parts]
    entries: dict[str, Entry] = {}
    for file in files:
        if twice := entries.keys() & file.entries.keys():
            raise CheckpointError(f"{file.path} holds {min(twice)}, as another part of the model does. Download it again.")
        entries.update(file.entries)
    if path.name.endswith(INDEX) and (lacking := _index(path).keys() - entries.keys()):
        raise CheckpointError(f"{path} names {len(lacking)} tensors that no part holds, among them {min(lacking)}.")
    return TensorFile(path, entries, files[0].metadata)


def _index(path: Path) -> dict[str, str]:
    try:
        if path.stat().st_size > _LARGEST_INDEX:
            raise ValueError("it is too large")
        found = json.loads(path.read_bytes())["weight_map"]
        for name, part in found.items():
            if not isinstance(part, str) or part != Path(part).name or "\\" in part or part.endswith(INDEX):
                raise ValueError(f"it places {name[:80]!r} in {str(part)[:80]!r}, which is not a file beside it")
        if not found:
            raise ValueError("it names no part")
        return found
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not an index of a model's parts, or damaged: {error}. Download it again.") from error
