"""A folder of memory-mapped arrays, one row per sample, filled by many
processes in any order and resumable after a kill."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.made_with import require_same
from ..data.shards import ShardSource
from ..data.storage import publish
from ..data.texts import parse_json

DESCRIPTION = "cache.json"
DONE = "done"
_NUMBERS = ("bool", "int32", "int64", "float16", "float32")


class CacheError(ValueError):
    """A cache that cannot be used: what is wrong, what was found, and what to do."""


@dataclass(frozen=True)
class Column:
    """One array of a store: its whole shape, and its type as numpy writes it (`float16`)."""

    shape: tuple[int, ...]
    dtype: str


class RowStore:
    """Arrays by name, and `done`: bool [rows], which rows are filled. `description` says what they were made from."""

    def __init__(self, path: Path, description: dict[str, Any], arrays: dict[str, np.ndarray]):
        self.path, self.description = path, description
        self.done = arrays.pop(DONE)
        self.arrays = arrays

    @staticmethod
    def create(path: str | Path, rows: int, columns: Mapping[str, Column], description: dict[str, Any]) -> RowStore:
        """Make a store, or open the one that is there and go on with it. Several processes may do so at once.

        Raises:
            CacheError: there is one made from something else, the disk has no room for it, or `path` is a URL.
        """
        path = _on_this_machine(path)
        layout = {name: [list(column.shape), column.dtype] for name, column in columns.items()}
        description = json.loads(json.dumps({**description, "rows": rows, "columns": layout}))
        if (path / DESCRIPTION).exists():
            try:
                require_same(path, "a cache", _read_description(path), description, words={"source": "shards"})
            except ValueError as error:
                raise CacheError(str(error)) from error
        path.mkdir(parents=True, exist_ok=True)
        for name, column in {**columns, DONE: Column((rows,), "bool")}.items():
            _allocate(path / f"{name}.npy", column)
        publish(str(path / DESCRIPTION), json.dumps(description, indent=1).encode())
        return RowStore(path, description, _map(path, description, "r+"))

    @staticmethod
    def open(path: str | Path, kind: str, source: ShardSource) -> RowStore:
        """Open a store of some `kind`, made from the shards of `source`, for reading.

        Raises:
            CacheError: there is none, it is of another kind, of other shards,
                damaged, a URL, or not all of its rows are filled.
        """
        path = _on_this_machine(path)
        description = _read_description(path)
        if description.get("kind") != kind:
            raise CacheError(f"{path} is a cache of {description.get('kind')}, where one of {kind} is expected.")
        if description["source"] != source.fingerprint:
            raise CacheError(
                f"The cache {path} was made from other shards ({description['rows']:,} samples; yours hold {len(source):,}). "
                "Name the shards it was made from, in the same order, or make a cache for yours."
            )
        store = RowStore(path, description, _map(path, description, "r"))
        filled = int(store.done.sum())
        if filled < len(store.done):
            raise CacheError(
                f"The cache {path} is not finished: {filled:,} of {len(store.done):,} rows are there. "
                "Run the command that makes it again; it goes on where it stopped."
            )
        return store

    @staticmethod
    def begun_with(path: str | Path) -> dict[str, Any]:
        """What made the rows of the store at `path`, finished or not; nothing where there is none. Raises CacheError."""
        path = _on_this_machine(path)
        return _read_description(path)["made_by"] if (path / DESCRIPTION).is_file() else {}

    def adopt(self, other: RowStore, names: Sequence[str], made_by: Mapping[str, Any]) -> None:
        """Take arrays of another finished store of the same samples, without copying them where the disk allows it.

        made_by: what they were made by, added to the description.
        """
        columns = {name: other.description["columns"][name] for name in names}
        for name in names:
            file = self.path / f"{name}.npy"
            file.unlink(missing_ok=True)
            try:
                os.link(other.path / file.name, file)
            except OSError:
                shutil.copyfile(other.path / file.name, file)
        self.description = {
            **self.description,
            "columns": {**self.description["columns"], **columns},
            "made_by": {**self.made_by, **made_by},
        }
        publish(str(self.path / DESCRIPTION), json.dumps(self.description, indent=1).encode())
        self.arrays |= {name: other.arrays[name] for name in names}

    @property
    def made_by(self) -> dict[str, Any]:
        """What the rows were made by, as the store's maker described it."""
        return self.description["made_by"]

    def to_do(self, part: int, parts: int) -> np.ndarray:
        """The row numbers that process `part` of `parts` has yet to fill: one
        stretch each, to read shards from end to end."""
        first, after = (len(self.done) * place // parts for place in (part, part + 1))
        return first + np.flatnonzero(~self.done[first:after])

    def fill(self, rows: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        """Write some rows of every array that has one per sample, then mark them as done."""
        for name, value in values.items():
            self.arrays[name][rows] = value
        self.finish(rows, list(values))

    def finish(self, rows: np.ndarray, names: list[str]) -> None:
        """Mark rows as done once their values, in the arrays called `names`, are on the disk."""
        for name in names:
            flush = getattr(self.arrays[name], "flush", None)
            if flush is not None:
                flush()
        self.done[rows] = True


def _on_this_machine(path: str | Path) -> Path:
    """The folder, refused where it is a URL. (As a Path, `s3://a` has become `s3:/a`.)"""
    if re.match(r"[A-Za-z][\w+.-]+:/", Path(path).as_posix()) or "::" in str(path):
        raise CacheError(
            f"{path} is a URL, and a cache has to be a folder: its arrays are mapped into memory, so that rows are read in any "
            "order and written in place, which object stores cannot do. Give a folder on a disk or a mounted file system; "
            "shards may lie on URLs."
        )
    return Path(path)


def _read_description(path: Path) -> dict[str, Any]:
    try:
        found = parse_json((path / DESCRIPTION).read_bytes())
    except FileNotFoundError as error:
        raise CacheError(f"There is no cache at {path}: it has no {DESCRIPTION}. Make one with python -m train.cache.") from error
    except (ValueError, OSError) as error:
        raise damaged(path, f"its {DESCRIPTION} cannot be read ({error})") from error
    if not _describes(found):
        raise damaged(path, f"its {DESCRIPTION} is not what a cache has there")
    return found


def _describes(found: Any) -> bool:
    """Whether a description has what all have: what the rows were made from,
    and arrays of numbers in files beside it."""

    def is_count(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**48

    def is_column(name: str, column: Any) -> bool:
        if re.fullmatch(r"\w+", name) is None or not isinstance(column, list) or len(column) != 2:
            return False
        shape, dtype = column
        return isinstance(shape, list) and all(map(is_count, shape)) and isinstance(dtype, str) and dtype in _NUMBERS

    return (
        isinstance(found, dict)
        and {"kind", "source", "made_by", "rows", "columns"} <= found.keys()
        and isinstance(found["made_by"], dict)
        and is_count(found["rows"])
        and isinstance(found["columns"], dict)
        and all(is_column(name, column) for name, column in found["columns"].items())
    )


def damaged(path: Path, why: str) -> CacheError:
    """The error of a cache that nothing can mend."""
    return CacheError(f"The cache {path} is damaged: {why}. Delete the folder and make it again.")


def _allocate(file: Path, column: Column) -> None:
    """Make an array of zeros, its room on the disk reserved: a full disk
    must be an error now, not a crash in the middle."""
    if file.exists():
        for left in file.parent.glob(f".{file.name}.*.partial"):  # of runs that were killed, as large as the array
            left.unlink(missing_ok=True)
        return
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        array = np.lib.format.open_memmap(partial, mode="w+", dtype=column.dtype, shape=column.shape)
        needed = array.nbytes
        del array
        if needed and hasattr(os, "posix_fallocate"):
            with partial.open("r+b") as opened:
                os.posix_fallocate(opened.fileno(), 0, partial.stat().st_size)
        # Another process may have been first: its file is then the one that all fill.
        with contextlib.suppress(FileExistsError):
            os.link(partial, file)
    except OSError as error:
        if file.exists():  # another process made it, and swept this one's away
            return
        size, free = np.prod(column.shape, dtype=float) * np.dtype(column.dtype).itemsize, shutil.disk_usage(file.parent).free
        raise CacheError(
            f"{file} cannot be made ({error}): it needs {size / 1e9:.2f} GB, {free / 1e9:.2f} GB are free. "
            "Choose a folder on a larger disk, or leave patch tokens out."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _map(path: Path, description: dict[str, Any], mode: Any) -> dict[str, np.ndarray]:
    columns = {**description["columns"], DONE: [[description["rows"]], "bool"]}
    arrays = {}
    for name, (shape, dtype) in columns.items():
        file = path / f"{name}.npy"
        if 0 in shape:  # cannot be mapped, and holds nothing
            arrays[name] = np.zeros(shape, dtype)
            continue
        try:
            array = np.load(file, mmap_mode=mode)
        except Exception as error:  # of a damaged header numpy raises what comes
            raise damaged(path, f"{file.name} cannot be read ({error})") from error
        if not isinstance(array, np.ndarray) or list(array.shape) != shape or array.dtype != np.dtype(dtype):
            what = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else "several arrays"
            raise damaged(path, f"{file.name} is {what}, its description says {dtype} {shape}")
        arrays[name] = array
    return arrays
