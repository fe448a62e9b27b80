"""Files of named tensors: opened with clear errors, read one tensor at a time, written whole or not at all.

Nothing here maps a file into memory: a tensor's bytes are read when it is asked for and belong to the caller.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import torch
from torch import Tensor

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_ZIP_MAGIC = b"PK\x03\x04"
_MAX_HEADER = 100_000_000


class CheckpointError(ValueError):
    """A file that cannot be used, with what is wrong, what was found, and what to do."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a file, not yet read. `read()` returns it in fresh CPU memory."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class TensorFile:
    """An opened file: its tensors by name, and the strings of its metadata."""

    path: Path
    entries: Mapping[str, Entry]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: entry.shape for name, entry in self.entries.items()}


def open_tensor_file(path: str | Path) -> TensorFile:
    """Open a safetensors file or a torch file of weights, told apart by content, not by name.

    Raises CheckpointError for files that are missing, empty, truncated, something else, or that carry code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}. Check the name, or download the file into that folder.")
    size = path.stat().st_size
    if size == 0:
        raise CheckpointError(
            f"{path} is empty (0 bytes): its download did not start or the disk was full. Delete it and download it again."
        )
    with path.open("rb") as file:
        start = file.read(512)
    length = int.from_bytes(start[:8], "little")
    if 2 <= length <= _MAX_HEADER and start[8:9] in (b"{", b""):
        return _open_safetensors(path, size, length)
    if start.startswith(_ZIP_MAGIC) or start[:1] == b"\x80":
        return TensorFile(path, _torch_entries(path))
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a Git LFS pointer ({size} bytes), not the weights. Download the file itself from its web page."
        )
    if start.lstrip()[:1] == b"<":
        raise CheckpointError(
            f"{path} is a web page, not weights: the download was answered with an error or a login page. Download it again."
        )
    raise CheckpointError(f"{path} is neither a safetensors file nor a torch file ({size} bytes). Choose a file of weights.")


def _open_safetensors(path: Path, size: int, length: int) -> TensorFile:
    data = 8 + length
    if size < data:
        raise CheckpointError(f"{path} is incomplete: {size:,} of at least {data:,} bytes are there. Download it again.")
    with path.open("rb") as file:
        file.seek(8)
        header = file.read(length)
    try:
        described = json.loads(header)
        metadata = described.pop("__metadata__", {})
        spans = {name: tuple(tensor["data_offsets"]) for name, tensor in described.items()}
        entries = {
            name: _safetensors_entry(path, _DTYPES[tensor["dtype"]], tuple(tensor["shape"]), data + spans[name][0])
            for name, tensor in described.items()
        }
        contradictory = next((name for name in entries if not _is_consistent(entries[name], *spans[name])), None)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"{path} is damaged: its header cannot be read ({type(error).__name__}: {str(error)[:200]}). Download it again."
        ) from error
    if contradictory is not None:
        raise CheckpointError(
            f"{path} is damaged: the header's entry for {contradictory!r} contradicts itself. Download it again."
        )
    expected = data + max((end for _, end in spans.values()), default=0)
    if size < expected:
        raise CheckpointError(f"{path} is incomplete: {size:,} of {expected:,} bytes are there. Download it again.")
    return TensorFile(path, entries, metadata)


def _is_consistent(entry: Entry, begin: int, end: int) -> bool:
    counts = all(isinstance(n, int) and n >= 0 for n in (*entry.shape, begin, end))
    return counts and end - begin == prod(entry.shape) * entry.dtype.itemsize


def _safetensors_entry(path: Path, dtype: torch.dtype, shape: tuple[int, ...], offset: int) -> Entry:
    return Entry(dtype, shape, lambda: _read(path, offset, prod(shape) * dtype.itemsize).view(dtype).view(shape))


def _read(path: Path, offset: int, size: int) -> Tensor:
    """`size` bytes from `offset` on, as uint8 in fresh memory."""
    buffer = torch.empty(size, dtype=torch.uint8)
    with path.open("rb") as file:
        file.seek(offset)
        got = file.readinto(buffer.numpy()) if size else 0
    if got != size:
        raise CheckpointError(f"{path} became shorter while it was read. Is it still being downloaded?")
    return buffer


def _torch_entries(path: Path) -> dict[str, Entry]:
    try:
        content, offset_of = _load_torch(path)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} carries Python code or objects besides weights, so it was not opened: they could harm this computer. "
            f"Use the author's safetensors file instead. (torch says: {str(error)[:160]})"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path} is damaged or incomplete ({path.stat().st_size:,} bytes). Download it again. (torch says: {str(error)[:99]})"
        ) from error
    tensors = dict(_flatten(content))
    if not tensors:
        raise CheckpointError(f"{path} holds no weights (found {type(content).__name__}). Choose a file of weights.")
    return {name: _torch_entry(path, tensor, offset_of(tensor)) for name, tensor in tensors.items()}


def _load_torch(path: Path) -> tuple[object, Callable[[Tensor], int | None]]:
    """The file's content, and where in the file a tensor's storage lies (None: the tensor is already in memory)."""
    # An open file, not a path: torch chooses the format by the path's ending, which is not what the file says it is.
    with path.open("rb") as file:
        if not zipfile.is_zipfile(path):
            return torch.load(file, map_location="cpu", weights_only=True), lambda tensor: None
        from torch._subclasses.fake_tensor import FakeTensorMode  # seconds to import, and only .pt files need it

        with FakeTensorMode():
            content = torch.load(file, map_location="cpu", weights_only=True)
    first = next((tensor for _, tensor in _flatten(content)), None)
    if first is None or getattr(first.untyped_storage(), "_checkpoint_offset", None) is not None:
        return content, lambda tensor: tensor.untyped_storage()._checkpoint_offset
    # torch before 2.7 does not tell offsets.
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True), lambda tensor: None


def _torch_entry(path: Path, tensor: Tensor, offset: int | None) -> Entry:
    shape, dtype = tuple(tensor.shape), tensor.dtype
    if offset is None:
        return Entry(dtype, shape, lambda: tensor.detach().clone())
    stored, stride, start = tensor.untyped_storage().nbytes(), tensor.stride(), int(tensor.storage_offset())

    def read() -> Tensor:
        if tensor.is_contiguous():
            return _read(path, offset + start * dtype.itemsize, prod(shape) * dtype.itemsize).view(dtype).view(shape)
        return _read(path, offset, stored).view(dtype).as_strided(shape, stride, start).contiguous()

    return Entry(dtype, shape, read)


def _flatten(content: object, prefix: str = "") -> Iterable[tuple[str, Tensor]]:
    """Tensors of a (nested) dictionary under dotted names; the usual wrappers around a state dict leave no trace."""
    if isinstance(content, Tensor) and prefix:
        yield prefix, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            wraps = not prefix and key in ("state_dict", "module") and isinstance(value, Mapping)
            yield from _flatten(value, "" if wraps else f"{prefix}.{key}".lstrip("."))


def digest(entry: Entry) -> bytes:
    """SHA-256 of a tensor's bytes, to compare two large ones without holding both."""
    return hashlib.sha256(_bytes(entry.read()).numpy()).digest()


def write_tensor_file(path: str | Path, entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, one tensor in memory at a time; it appears whole, checked against `entries`, or not at all."""
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
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    # Larger elements first, as the safetensors library does, so that every tensor is aligned.
    order = sorted(entries, key=lambda name: (-entries[name].dtype.itemsize, name))
    for name in order:
        entry = entries[name]
        end = offset + prod(entry.shape) * entry.dtype.itemsize
        header[name] = {"dtype": _DTYPE_NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
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
