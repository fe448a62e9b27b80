"""The format in which torch saved before version 1.6, opened without running anything in it.

Pickles, one after the other: a magic number, the format's version, what the machine was like, the content,
and the names of the storages in order. Behind them each storage: the number of its values in 8 bytes, then
the values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from .read_pickle import Unpickler
from .tensor_entry import Bytes, CheckpointError

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001


@dataclass(frozen=True)
class OldFile:
    """Where a file's storages lie: begin and size, in bytes, by name."""

    places: Mapping[str, tuple[int, int]]
    bytes: Bytes

    @staticmethod
    def open(path: Path, largest: int) -> tuple[Any, OldFile] | None:
        """The content, with a `Place` for each tensor, and where these lie.

        None for anything else than this format. Raises CheckpointError for pickles of more than `largest` bytes,
        and for a file that ends too early; OtherObjectsError for other things than tensors; for a damaged pickle
        whatever comes.
        """
        with path.open("rb") as file:
            pickles = _Start(path, file, largest)
            if Unpickler(pickles).load() != _MAGIC or Unpickler(pickles).load() != _VERSION:
                return None
            if not Unpickler(pickles).load()["little_endian"]:
                return None
            unpickler = Unpickler(pickles)
            content, names = unpickler.load(), Unpickler(pickles).load()
            end, place, places = path.stat().st_size, file.tell(), {}
            for name in names:
                dtype = unpickler.storages[name]
                file.seek(place)
                values = int.from_bytes(file.read(8), "little")
                places[name] = (place + 8, values * (dtype.itemsize if dtype else 1))
                place += 8 + places[name][1]
                if place > end:
                    raise CheckpointError(
                        f"{path} is incomplete: {end:,} of at least {place:,} bytes are there. Download it again."
                    )
        return content, OldFile(places, Bytes(path))

    def size(self, name: str) -> int | None:
        """Bytes of a storage; None for one that is not there."""
        return self.places[name][1] if name in self.places else None

    def place(self, name: str) -> int:
        """Where a storage begins."""
        return self.places[name][0]

    def storage(self, name: str) -> Tensor:
        """A whole storage as uint8."""
        return self.bytes.read(*self.places[name])


class _Start:
    """The first bytes of a file, for an unpickler: a damaged length asks for no more memory than `largest`."""

    def __init__(self, path: Path, file: BinaryIO, largest: int):
        self._path, self._file, self._largest = path, file, largest

    def read(self, size: int) -> bytes:
        self._require(size)
        return self._file.read(size)

    def readline(self) -> bytes:
        self._require(0)
        return self._file.readline(self._largest)

    def _require(self, size: int) -> None:
        if self._file.tell() + size > self._largest:
            raise CheckpointError(f"{self._path} is damaged: its list of tensors goes on and on. Download it again.")
