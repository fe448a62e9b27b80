"""Files that torch saves, opened without running anything in them: zip
archives, the old format, and TorchScript."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .read_old import OldFile
from .read_pickle import OtherObjectsError, Place, parameters, unpickle
from .tensor_entry import Bytes, CheckpointError, Entry

_LARGEST_PICKLE = 256 << 20  # bytes; those of the largest models with their optimiser have 10 million
_LARGEST_EXPANSION = 1 << 30  # bytes that a file packed by more than _PACKED may unpack to
_PACKED = 20
_MOST_PARTS = 1_000_000


def open_torch(path: Path) -> dict[str, Entry]:
    """The tensors of a torch file by (dotted) name. Raises CheckpointError for what is damaged, or carries code."""
    try:
        content, tensors, storages = _tensors(path)
        entries = {name: _entry(path, storages, tensor) for name, tensor in tensors.items()}
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"({found[1]}), so it was not opened" if found else "or is damaged, so it was not opened"
        raise CheckpointError(
            f"{path} carries Python code or objects besides weights {what}: code could harm this computer. Use the author's "
            "safetensors file instead."
        ) from error
    except Exception as error:  # of a damaged pickle comes anything: IndexError, AssertionError, RecursionError, ...
        raise CheckpointError(
            f"{path} is damaged or incomplete ({path.stat().st_size:,} bytes). Download it again. "
            f"({type(error).__name__}: {str(error)[:99]})"
        ) from error
    if not entries:
        raise CheckpointError(f"{path} holds no weights (found {type(content).__name__}). Choose a file of weights.")
    return entries


def _tensors(path: Path) -> tuple[object, dict[str, Tensor | Place], _Archive | OldFile | None]:
    """The content, and its tensors: where they lie, or in memory already."""
    archive = _Archive.of(path) if zipfile.is_zipfile(path) else None
    if archive is not None and archive.is_torchscript:
        try:
            content = unpickle(archive.read("data.pkl"), script=True)
        except OtherObjectsError as error:
            raise CheckpointError(
                f"{path} is a TorchScript program, which is not run here, and holds {error} besides weights. Use the author's "
                "safetensors file instead."
            ) from error
        return content, dict(parameters(content)), archive
    try:
        if archive is not None and archive.is_little_endian:
            content = unpickle(archive.read("data.pkl"))
            return content, dict(_flatten(content, budget=[_MOST_PARTS])), archive
        if archive is None and (found := OldFile.open(path, _LARGEST_PICKLE)) is not None:
            return found[0], dict(_flatten(found[0], budget=[_MOST_PARTS])), found[1]
    except OtherObjectsError:
        pass  # torch knows more kinds of objects to be harmless, and tells which are not
    with path.open("rb") as file:  # an open file: of a path, torch would look at the ending
        content = torch.load(file, map_location="cpu", weights_only=True)
    return content, dict(_flatten(content, budget=[_MOST_PARTS])), archive


@dataclass(frozen=True)
class _Archive:
    """The directory of a zip archive, with where each member's bytes begin."""

    members: Mapping[str, zipfile.ZipInfo]
    places: Mapping[str, int]
    bytes: Bytes

    @staticmethod
    def of(path: Path) -> _Archive:
        with zipfile.ZipFile(path) as opened, path.open("rb") as file:
            members = {info.filename.partition("/")[2]: info for info in opened.infolist()}
            if len(members) < len(opened.infolist()):
                raise CheckpointError(f"{path} is damaged: its archive has two parts of one name. Download it again.")
            places = {}
            for name, info in members.items():
                file.seek(info.header_offset + 26)
                lengths = file.read(4)
                names = sum(int.from_bytes(lengths[i : i + 2], "little") for i in (0, 2))
                places[name] = info.header_offset + 30 + names
        size, unpacked = path.stat().st_size, sum(info.file_size for info in members.values())
        if unpacked > size * _PACKED and unpacked > size + _LARGEST_EXPANSION:
            raise CheckpointError(f"{path} unpacks to {unpacked:,} bytes, {unpacked // size} times its size: no weights do.")
        if (pickled := members.get("data.pkl")) is not None and pickled.file_size > _LARGEST_PICKLE:
            raise CheckpointError(f"{path} is damaged: its list of tensors has {pickled.file_size:,} bytes. Download it again.")
        return _Archive(members, places, Bytes(path))

    @property
    def is_torchscript(self) -> bool:
        return "constants.pkl" in self.members and "data.pkl" in self.members

    @property
    def is_little_endian(self) -> bool:
        return "data.pkl" in self.members and ("byteorder" not in self.members or self.read("byteorder") == b"little")

    def read(self, name: str) -> bytes:
        with zipfile.ZipFile(self.bytes.path) as opened:
            return opened.read(self.members[name])

    def size(self, name: str) -> int | None:
        """Bytes of a storage, unpacked; None for one that is not there."""
        info = self.members.get(f"data/{name}")
        return None if info is None else info.file_size

    def place(self, name: str) -> int | None:
        """Where a storage's bytes begin; None where they are packed."""
        info = self.members[f"data/{name}"]
        plain = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size and not info.flag_bits & 1
        return self.places[f"data/{name}"] if plain else None

    def storage(self, name: str) -> Tensor:
        """A whole storage as uint8, packed or not."""
        info = self.members[f"data/{name}"]
        if (place := self.place(name)) is not None:
            return self.bytes.read(place, info.file_size)
        buffer = torch.empty(info.file_size, dtype=torch.uint8)
        try:
            with zipfile.ZipFile(self.bytes.path) as opened, opened.open(info) as file:
                if file.readinto(buffer.numpy()) != info.file_size or file.read(1):  # type: ignore[arg-type]
                    raise EOFError("it has another length")
        except Exception as error:  # zipfile's own, zlib's, lzma's: whatever packed it
            raise CheckpointError(
                f"{self.bytes.path} is damaged: its part {info.filename} does not unpack ({error}). Download it again."
            ) from error
        return buffer


def _entry(path: Path, storages: _Archive | OldFile | None, tensor: Tensor | Place) -> Entry:
    if isinstance(tensor, Tensor):
        return Entry(tensor.dtype, tuple(tensor.shape), lambda: tensor.detach().clone(), tensor.detach)
    name, dtype, shape = tensor.key, tensor.dtype, tensor.shape
    if storages is None or (size := storages.size(name)) is None:
        raise CheckpointError(f"{path} is damaged: its part {name} is missing. Download it again.")
    values, rest = divmod(size, dtype.itemsize)
    last = tensor.start + sum((size - 1) * step for size, step in zip(shape, tensor.stride, strict=True))
    if rest or (prod(shape) and last >= values):
        raise CheckpointError(
            f"{path} is damaged: a tensor of shape {list(shape)} does not lie within its part {name}. Download it again."
        )
    if prod(shape) * dtype.itemsize > size + _LARGEST_EXPANSION:  # one value may stand for many
        raise CheckpointError(
            f"{path} holds a tensor of shape {list(shape)} in {size:,} bytes: no weights do. Download it again."
        )
    if (place := storages.place(name)) is not None and _in_order(shape, tensor.stride):
        return storages.bytes.entry(place + tensor.start * dtype.itemsize, dtype, shape)
    return Entry(dtype, shape, lambda: _read_strided(storages, tensor))


def _read_strided(storages: _Archive | OldFile, tensor: Place) -> Tensor:
    values = storages.storage(tensor.key).view(tensor.dtype)
    return values.as_strided(tensor.shape, tensor.stride, tensor.start).contiguous()


def _in_order(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    return all(size == 1 or step == prod(shape[axis + 1 :]) for axis, (size, step) in enumerate(zip(shape, stride, strict=True)))


def _flatten(content: Any, prefix: str = "", *, budget: list[int]) -> Iterable[tuple[str, Tensor | Place]]:
    """Tensors of a (nested) dictionary under dotted names; the usual wrappers around a state dict leave no trace."""
    budget[0] -= 1
    if budget[0] < 0:
        raise ValueError(f"more than {_MOST_PARTS:,} parts")
    if isinstance(content, (Tensor, Place)) and prefix:
        yield prefix, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            wraps = not prefix and key in ("state_dict", "module") and isinstance(value, Mapping)
            yield from _flatten(value, "" if wraps else f"{prefix}.{key}".lstrip("."), budget=budget)
