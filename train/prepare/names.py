"""Many names in little memory: sorted, in a temporary file."""

from __future__ import annotations

import heapq
import os
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import IO

CHUNK = 100_000
"""Names that are held and sorted at once."""
_STRETCH = 1 << 14
"""Bytes that are read at once, of each of the files that are merged."""


class SortedNames:
    """File names in order, any number of them. Iterate as often as you like."""

    def __init__(self, names: Iterable[str]):
        waiting = iter(names)
        parts = []
        while chunk := sorted(islice(waiting, CHUNK)):
            parts.append(_written(chunk))
        self._file = parts[0] if len(parts) == 1 else _written(heapq.merge(*map(_read, parts)))
        self._count = sum(1 for _ in self)

    def __iter__(self) -> Iterator[str]:
        return _read(self._file)

    def __len__(self) -> int:
        return self._count


def _written(names: Iterable[str]) -> IO[bytes]:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - it goes when nobody has it any more
    for name in names:
        file.write(os.fsencode(name) + b"\0")  # the one byte that no name has
    file.flush()
    return file


def _read(file: IO[bytes]) -> Iterator[str]:
    place, rest = 0, b""
    while stretch := os.pread(file.fileno(), _STRETCH, place):
        place += len(stretch)
        *whole, rest = (rest + stretch).split(b"\0")
        yield from map(os.fsdecode, whole)
