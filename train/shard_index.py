"""The index beside a shard: where every member lies, the keys, and what the tar was when it was indexed."""

from __future__ import annotations

import hashlib
import json
import logging
import posixpath
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from .storage import is_local, open_seekable, publish, read_bytes, size_of

logger = logging.getLogger(__name__)

INDEX_SUFFIX = ".index"
FORMAT = "faceclip_shard_index"
ABSENT = -1
# Column of each extension in `ShardIndex.spans`; other photographs than JPEG are read as what they are.
_COLUMNS = {"jpg": 0, "jpeg": 0, "png": 0, "webp": 0, "face.jpg": 1, "txt": 2, "json": 3}


class ShardError(ValueError):
    """A shard that cannot be used: what is wrong, what was found, and what to do."""


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """N samples of one tar."""

    spans: np.ndarray
    """int64 [N, 4, 2]: first byte and length of photograph, face, caption and meta; length -1 where there is none."""
    keys: np.ndarray
    """uint8 [N, K]: the keys in UTF-8, padded with zeros."""
    bytes: int
    """Length of the tar."""
    fingerprint: str
    """Hex digest of the tar's contents, or of its table of contents where it was indexed by others."""

    def __len__(self) -> int:
        return len(self.spans)

    def key(self, row: int) -> str:
        return self.keys[row].tobytes().rstrip(b"\0").decode()


def scan_tar(file: IO[bytes], path: str, fingerprint: str | None = None) -> ShardIndex:
    """Index a tar by its headers alone. Without a `fingerprint` the index gets one of names, places and lengths.

    Raises:
        ShardError: the file is no tar, was cut short, or holds no sample.
    """
    spans: dict[str, np.ndarray] = {}
    end = 0
    length = file.seek(0, 2)
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for entry in tar:
                end = entry.offset_data + -(-entry.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                key, extension = _split(entry.name)
                if not entry.isfile() or extension not in _COLUMNS:
                    continue
                row = spans.setdefault(key, np.full((4, 2), ABSENT, dtype=np.int64))
                row[_COLUMNS[extension]] = entry.offset_data, entry.size
    except tarfile.TarError as error:
        raise ShardError(f"{path} is no tar, or damaged ({error}; {length:,} bytes). Copy or make it again.") from error
    file.seek(end)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # an empty block ends every tar
        raise ShardError(f"{path} was cut short: its {length:,} bytes end within or after sample {len(spans):,}. Copy it again.")
    if not spans:
        raise ShardError(f"{path} holds no sample: none of its files ends in .jpg, .txt or .json. Is it a webdataset shard?")
    encoded = [key.encode() for key in spans]
    width = max(map(len, encoded))
    keys = np.frombuffer(b"".join(key.ljust(width, b"\0") for key in encoded), dtype=np.uint8).reshape(-1, width)
    table = np.stack(list(spans.values()))
    return ShardIndex(table, keys, length, fingerprint or hashlib.sha256(table.tobytes() + keys.tobytes()).hexdigest())


def _split(name: str) -> tuple[str, str]:
    """webdataset's rule: the key ends at the first dot of the base name."""
    folder, base = posixpath.split(name)
    stem, _, extension = base.partition(".")
    return posixpath.join(folder, stem), extension.lower()


def write_index(path: str, index: ShardIndex) -> None:
    """Write the index of a shard, the same bytes for the same index; the file appears whole or not at all."""
    # A safetensors file by hand: the library writes its metadata in an order of chance.
    spans, keys = index.spans.tobytes(), index.keys.tobytes()
    header = {
        "__metadata__": {"format": FORMAT, "version": "1", "bytes": str(index.bytes), "fingerprint": index.fingerprint},
        "spans": {"dtype": "I64", "shape": index.spans.shape, "data_offsets": [0, len(spans)]},
        "keys": {"dtype": "U8", "shape": index.keys.shape, "data_offsets": [len(spans), len(spans) + len(keys)]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the numbers after it start at a multiple of their size
    publish(path, len(text).to_bytes(8, "little") + text + spans + keys)


def read_index(shard: str) -> ShardIndex:
    """The index of a shard, checked against the shard's length. A shard without one is indexed in memory, by its headers.

    Raises:
        ShardError: the shard is missing, empty or cut short, or its index is damaged or another shard's.
    """
    length = size_of(shard)
    if length is None:
        raise ShardError(f"There is no shard {shard}. Check the name.")
    if length == 0:
        raise ShardError(f"The shard {shard} is empty (0 bytes): its copy did not start, or the disk was full. Copy it again.")
    sidecar = shard + INDEX_SUFFIX
    if size_of(sidecar) is None:
        logger.info("%s has no index beside it: reading its headers", shard)
        with open_seekable(shard) as file:
            return scan_tar(file, shard)
    index = _load(sidecar)
    if index.bytes != length:
        problem = "was cut short" if length < index.bytes else "is not the tar its index was made for"
        raise ShardError(f"The shard {shard} {problem}: {length:,} bytes, its index says {index.bytes:,}. Copy it again.")
    return index


def _load(sidecar: str) -> ShardIndex:
    """Arrays mapped from a local file (shared by all processes), read from any other."""
    data = np.memmap(sidecar, dtype=np.uint8, mode="r") if is_local(sidecar) and Path(sidecar).stat().st_size else None
    raw = data if data is not None else np.frombuffer(read_bytes(sidecar), dtype=np.uint8)
    try:
        start = 8 + int.from_bytes(raw[:8].tobytes(), "little")
        header = json.loads(raw[8:start].tobytes())
        metadata = header["__metadata__"]
        arrays = {name: _view(raw[start:], header[name], kind) for name, kind in (("spans", np.int64), ("keys", np.uint8))}
        if metadata["format"] != FORMAT:
            raise ValueError(f"its format is {metadata['format']!r}")
        return ShardIndex(arrays["spans"], arrays["keys"], int(metadata["bytes"]), metadata["fingerprint"])
    except (ValueError, KeyError, TypeError) as error:
        raise ShardError(
            f"The index {sidecar} is damaged ({error}). Delete it: the shard's own headers are then read."
        ) from error


def _view(data: np.ndarray, entry: dict, kind: type[np.generic]) -> np.ndarray:
    first, last = entry["data_offsets"]
    return data[first:last].view(kind).reshape(entry["shape"])
