"""What a file of tensors is once it is open: names, shapes, and where each tensor's bytes lie."""

from __future__ import annotations

import functools
import mmap
import os
import warnings
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import torch
from torch import Tensor


class CheckpointError(ValueError):
    """A file that cannot be used, with what is wrong, what was found, and what to do."""

    __module__ = "faceclip"  # what ComfyUI prints before the sentence


@dataclass(frozen=True)
class Entry:
    """One tensor of a file, not yet read. `read()` returns it in fresh CPU memory, the caller's own.

    `let_go()`, where there is one, gives back the memory that tensors of this file took since they were `mapped`
    and looked at. They stay usable: what is looked at again comes from the file again.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    view: Callable[[], Tensor] | None = None
    let_go: Callable[[], None] | None = None

    def mapped(self) -> Tensor:
        """The tensor where it lies in the file, which takes no memory and no time yet; one that does not lie so is read.

        To be copied from, never to be written to. The file must stay as it is for as long as the tensor lives.
        """
        return self.read() if self.view is None else self.view()


@dataclass(frozen=True)
class TensorFile:
    """An opened file: its tensors by name, and the strings of its metadata."""

    path: Path
    entries: Mapping[str, Entry]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: entry.shape for name, entry in self.entries.items()}

    def under(self, prefix: str, names: Mapping[str, str]) -> TensorFile:
        """Those tensors whose name in `names` (the file's own -> another) begins with `prefix`, under the rest of it."""
        kept = {name: entry for name, entry in self.entries.items() if names[name].startswith(prefix)}
        return TensorFile(self.path, {names[n].removeprefix(prefix): entry for n, entry in kept.items()}, self.metadata)


def require_names(path: Path, found: Set[str], expected: Set[str], what: str, advice: str) -> None:
    """Raise CheckpointError unless the names of a file's tensors are those of `what`.

    `advice`: sentences, what to do.
    """
    lacks, unknown = expected - found, found - expected
    if lacks:
        raise CheckpointError(
            f"{path} is not a whole {what}: it lacks {len(lacks)} of {len(expected)} tensors, among them {min(lacks)}. {advice}"
        )
    if unknown:
        raise CheckpointError(
            f"{path} holds more than a {what}: {len(unknown)} tensors beside {len(expected)}, among them {min(unknown)}. {advice}"
        )


def require_exact(
    path: Path, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], what: str, advice: str
) -> None:
    """Raise CheckpointError unless a file has every tensor of `what`, in its shape, and no other.

    found, expected: shapes by name.
    """
    require_names(path, found.keys(), expected.keys(), what, advice)
    wrong = [name for name in expected if tuple(expected[name]) != tuple(found[name])]
    if wrong:
        raise CheckpointError(
            f"{path} does not fit the configuration of the {what}: {wrong[0]} has shape {list(found[wrong[0]])}, "
            f"expected {list(expected[wrong[0]])}. {advice}"
        )


class Bytes:
    """The bytes of a file: parts of it are read, or seen where they lie."""

    def __init__(self, path: Path):
        self.path = path

    def entry(self, offset: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Entry:
        """A tensor that lies whole and in order at `offset`."""

        def read() -> Tensor:
            return self.read(offset, prod(shape) * dtype.itemsize).view(dtype).view(shape)

        def view() -> Tensor:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The given buffer is not writable")
                return torch.frombuffer(self._mapping, dtype=dtype, count=prod(shape), offset=offset).view(shape)

        lies_well = prod(shape) > 0 and offset % dtype.itemsize == 0
        return Entry(dtype, shape, read, view if lies_well else None, self.let_go)

    def let_go(self) -> None:
        """See `Entry`. Windows does this by itself."""
        if "_mapping" in self.__dict__ and hasattr(mmap, "MADV_DONTNEED"):
            self._mapping.madvise(mmap.MADV_DONTNEED)

    def read(self, offset: int, size: int) -> Tensor:
        """`size` bytes from `offset` on, as uint8 in fresh memory."""
        if offset + size > self.path.stat().st_size:  # before memory is asked for
            raise self._shorter()
        buffer = torch.empty(size, dtype=torch.uint8)
        with self.path.open("rb") as file:
            file.seek(offset)
            got = file.readinto(buffer.numpy()) if size else 0
        if got != size:
            raise self._shorter()
        return buffer

    @functools.cached_property
    def _mapping(self) -> mmap.mmap:
        # Elsewhere than on Windows, which sets memory aside for it, a copy of its own: a slip of the caller ends no process.
        access = mmap.ACCESS_READ if os.name == "nt" else mmap.ACCESS_COPY
        with self.path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=access)

    def _shorter(self) -> CheckpointError:
        return CheckpointError(f"{self.path} became shorter while it was read. Is it still being downloaded?")
