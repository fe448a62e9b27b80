"""Files of named tensors: opened with clear errors, read one tensor at a time, written whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from . import parts, safetensors_header
from .read_safetensors import DTYPES, LARGEST_HEADER, open_safetensors
from .read_torch import open_torch
from .tensor_entry import CheckpointError, Entry, TensorFile, require_exact, require_names

__all__ = [
    "CheckpointError",
    "Entry",
    "TensorFile",
    "digest",
    "memory_entry",
    "open_tensor_file",
    "read_state_dict",
    "require_exact",
    "require_names",
    "write_safetensors",
    "write_tensor_file",
]

_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ZIP_MAGIC = b"PK\x03\x04"


def open_tensor_file(path: str | Path) -> TensorFile:
    """Open a safetensors file or a torch file of weights, told apart by content, not by name.

    Of a model in several files any part, or the index, opens all. Nothing is read yet but the list of tensors.
    Raises CheckpointError for files that are missing, empty, truncated, something else, or that carry code.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise CheckpointError(f"There is no file {path}. Check the name, or download the file into that folder.")
        if (found := parts.siblings(path)) is not None:
            return parts.join(path, found, _open)
        return _open(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be opened ({error.strerror or error}). Check who may read it.") from error


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """All tensors of any safetensors or torch file. Raises CheckpointError for a file that cannot be read."""
    return {name: entry.read() for name, entry in open_tensor_file(path).entries.items()}


def _open(path: Path) -> TensorFile:
    size = path.stat().st_size
    if size == 0:
        raise CheckpointError(
            f"{path} is empty (0 bytes): its download did not start or the disk was full. Delete it and download it again."
        )
    with path.open("rb") as file:
        start = file.read(512)
    length = safetensors_header.length_of(start)
    if 2 <= length <= LARGEST_HEADER and start[8:9] in (b"{", b""):
        return open_safetensors(path, size, length)
    if start.startswith(_ZIP_MAGIC) or start[:1] == b"\x80":
        return TensorFile(path, open_torch(path))
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a Git LFS pointer ({size} bytes), not the weights. Download the file itself from its web page."
        )
    if start.lstrip()[:1] == b"<":
        raise CheckpointError(
            f"{path} is a web page, not weights: the download was answered with an error or a login page. Download it again."
        )
    if start.startswith(b"GGUF"):
        raise CheckpointError(f"{path} is a GGUF file, which needs a loader of its own. Use the model's safetensors file.")
    raise CheckpointError(f"{path} is neither a safetensors file nor a torch file ({size} bytes). Choose a file of weights.")


def digest(entry: Entry) -> bytes:
    """SHA-256 of a tensor's bytes, to compare two large ones without holding both."""
    return hashlib.sha256(_bytes(entry.read()).numpy()).digest()


def write_tensor_file(path: str | Path, entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, one tensor in memory at a time.

    It appears whole, checked against `entries`, or not at all.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write(part, entries, metadata)
        _verify(part, entries)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_safetensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """`write_tensor_file` for tensors that are in memory."""
    write_tensor_file(path, {name: memory_entry(tensor) for name, tensor in tensors.items()}, metadata)


def memory_entry(tensor: Tensor) -> Entry:
    """An entry for a tensor that is in memory already."""
    return Entry(tensor.dtype, tuple(tensor.shape), lambda: tensor.detach().cpu().contiguous())


def _write(path: Path, entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> None:
    # Larger elements first, as the safetensors library does, so that every tensor is aligned.
    order = sorted(entries, key=lambda name: (-entries[name].dtype.itemsize, name))
    described = (
        (name, _DTYPE_NAMES[entry.dtype], entry.shape, prod(entry.shape) * entry.dtype.itemsize)
        for name, entry in ((name, entries[name]) for name in order)
    )
    header = safetensors_header.pack(described, metadata)
    with path.open("wb") as file:
        file.write(header)
        for name in order:
            file.write(memoryview(_bytes(entries[name].read()).numpy()))
        file.flush()
        os.fsync(file.fileno())


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def _verify(path: Path, entries: Mapping[str, Entry]) -> None:
    written = open_tensor_file(path).entries
    for name, entry in entries.items():
        expected = _bytes(entry.read())  # first, since making it may need more memory than keeping it
        if not torch.equal(expected, _bytes(written[name].read())):
            raise CheckpointError(f"{path} does not hold what was written to it (first at {name}). Is the disk failing?")
