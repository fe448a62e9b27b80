"""The index beside a shard: where every member lies, the keys, and what the tar was when it was indexed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import posixpath
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from faceclip import safetensors_header

from .storage import is_local, open_seekable, publish, read_bytes, size_of

logger = logging.getLogger(__name__)

INDEX_SUFFIX = ".index"
FORMAT = "faceclip_shard_index"
ABSENT = -1
_ARRAYS: dict[str, type[np.generic]] = {"spans": np.int64, "keys": np.uint8, "pixels": np.int32}
_SPANS = 4 * 2 * 8
_LONGEST_HEADER = 1 << 16
# Column of each extension in `ShardIndex.spans`; other photographs than JPEG are read as what they are.
_COLUMNS = {"jpg": 0, "jpeg": 0, "png": 0, "webp": 0, "face.jpg": 1, "txt": 2, "json": 3}


class ShardError(ValueError):
    """A shard that cannot be used: what is wrong, what was found, and what to do."""


class Index(Protocol):
    """Where the members of N samples of one tar lie."""

    bytes: int
    """Length of the tar."""
    fingerprint: str
    """Hex digest of the tar's contents, or of its table of contents where it was indexed by others."""
    absent: tuple[int, ...]
    """How many samples lack photograph, face, caption and meta."""

    def __len__(self) -> int: ...

    def lookup(self, row: int) -> tuple[str, np.ndarray]:
        """A row's key, and int64 [4, 2]: first byte and length of photograph,
        face, caption and meta, length -1 for none."""
        ...

    def sizes(self) -> np.ndarray:
        """int32 [N, 2]: height and width of every photograph in pixels, 0 where they are not known."""
        ...


class ShardIndex:
    """An index in memory: `spans` int64 [N, 4, 2], `keys` uint8 [N, K] in
    UTF-8 and padded with zeros, `pixels` int32 [N, 2]."""

    def __init__(self, spans: np.ndarray, keys: np.ndarray, pixels: np.ndarray, length: int, fingerprint: str):
        self.spans, self.keys, self.pixels = spans, keys, pixels
        self.bytes, self.fingerprint = length, fingerprint
        self.absent = tuple(int(count) for count in (spans[:, :, 1] < 0).sum(axis=0))

    def __len__(self) -> int:
        return len(self.spans)

    def lookup(self, row: int) -> tuple[str, np.ndarray]:
        return _key(self.keys[row].tobytes()), self.spans[row]

    def sizes(self) -> np.ndarray:
        return self.pixels


class StoredIndex:
    """The index of a local shard, left where it lies: a row costs two small reads, of pages that all ranks share.

    Not mapped: each map holds a file descriptor, and ten thousand shards are more than a process may have.
    """

    def __init__(self, path: str, header: Mapping[str, Any], start: int):
        self._path, self._start = path, start
        self._places = {name: header[name]["data_offsets"] for name in ("spans", "keys", "pixels")}
        self._rows, self._key_width = header["keys"]["shape"]
        self.bytes, self.fingerprint, self.absent = _facts(header)
        sizes = {"spans": _SPANS, "pixels": 8, "keys": self._key_width}
        for name, (first, end) in self._places.items():
            if not 0 <= first <= end or end - first != self._rows * sizes[name] or self._rows < 1:
                raise ValueError(f"its {name} have another length than its header says")
        last = max(end for _, end in self._places.values())
        if start + last != Path(path).stat().st_size:
            raise ValueError("it has another length than its header says")

    def __len__(self) -> int:
        return self._rows

    def lookup(self, row: int) -> tuple[str, np.ndarray]:
        with Path(self._path).open("rb", buffering=0) as file:
            spans = os.pread(file.fileno(), _SPANS, self._start + self._places["spans"][0] + row * _SPANS)
            key = os.pread(file.fileno(), self._key_width, self._start + self._places["keys"][0] + row * self._key_width)
        if len(spans) != _SPANS or len(key) != self._key_width:
            raise ShardError(f"The index {self._path} was cut short since it was opened. Copy it and its shard again.")
        return _key(key), np.frombuffer(spans, dtype=np.int64).reshape(4, 2)

    def sizes(self) -> np.ndarray:
        first = self._start + self._places["pixels"][0]
        return np.fromfile(self._path, dtype=np.int32, count=2 * self._rows, offset=first).reshape(-1, 2)


def _key(stored: bytes) -> str:
    return stored.rstrip(b"\0").decode(errors="surrogateescape")


def _facts(header: Mapping[str, Any]) -> tuple[int, str, tuple[int, ...]]:
    metadata = header["__metadata__"]
    if metadata["format"] != FORMAT:
        raise ValueError(f"its format is {metadata['format']!r}")
    return int(metadata["bytes"]), metadata["fingerprint"], tuple(json.loads(metadata["absent"]))


def scan_tar(file: IO[bytes], path: str, fingerprint: str | None = None) -> ShardIndex:
    """Index a tar by its headers alone. Without a `fingerprint` the index gets one of names, places and lengths.

    Raises:
        ShardError: the file is not a tar, was cut short, or holds no sample.
    """
    found: list[tuple[str, np.ndarray]] = []
    latest: dict[str, tuple[np.ndarray, set[str]]] = {}  # each key's row, and the names of files seen for it
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
                if key not in latest or entry.name in latest[key][1]:  # a name that comes again begins another sample
                    latest[key] = np.full((4, 2), ABSENT, dtype=np.int64), set()
                    found.append((key, latest[key][0]))
                row, names = latest[key]
                names.add(entry.name)
                member = row[_COLUMNS[extension]]
                if member[1] == ABSENT:  # of several pictures, such as a mask beside, the first is the photograph
                    member[:] = entry.offset_data, entry.size
    except (tarfile.TarError, ValueError, OverflowError, OSError, EOFError) as error:
        raise ShardError(f"{path} is not a tar, or damaged ({error}; {length:,} bytes). Copy or make it again.") from error
    file.seek(end)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # an empty block ends every tar
        raise ShardError(f"{path} was cut short: its {length:,} bytes end within or after sample {len(found):,}. Copy it again.")
    if not found:
        raise ShardError(f"{path} holds no sample: none of its files ends in .jpg, .txt or .json. Is it a webdataset shard?")
    encoded = [key.encode(errors="surrogateescape") for key, _ in found]
    width = max(map(len, encoded))
    keys = np.frombuffer(b"".join(key.ljust(width, b"\0") for key in encoded), dtype=np.uint8).reshape(-1, width)
    spans = np.stack([row for _, row in found])
    if fingerprint is None:
        fingerprint = hashlib.sha256(spans.tobytes() + keys.tobytes()).hexdigest()
    return ShardIndex(spans, keys, np.zeros((len(spans), 2), np.int32), length, fingerprint)


def _split(name: str) -> tuple[str, str]:
    """webdataset's rule: the key ends at the first dot of the base name."""
    folder, base = posixpath.split(name)
    stem, _, extension = base.partition(".")
    return posixpath.join(folder, stem), extension.lower()


def write_index(path: str, index: ShardIndex) -> None:
    """Write the index of a shard, the same bytes for the same index; the file appears whole or not at all."""
    # Its header by our own hand: the safetensors library writes the metadata in an order of chance.
    facts = {"bytes": str(index.bytes), "fingerprint": index.fingerprint, "absent": json.dumps(index.absent)}
    arrays = [("spans", "I64", index.spans), ("pixels", "I32", index.pixels), ("keys", "U8", index.keys)]
    described = [(name, kind, array.shape, array.nbytes) for name, kind, array in arrays]
    header = safetensors_header.pack(described, {"format": FORMAT, "version": "1", **facts})
    publish(path, b"".join([header, *(array.tobytes() for _, _, array in arrays)]))


def read_index(shard: str) -> Index:
    """The index of a shard, checked against the shard's length.

    A shard without one is indexed in memory, by its headers.

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


def _load(sidecar: str) -> Index:
    """The header alone of a local file, the whole of any other."""
    try:
        if is_local(sidecar):
            with Path(sidecar).open("rb") as file:
                length = safetensors_header.length_of(file.read(safetensors_header.LENGTH))
                header = safetensors_header.unpack(file.read(min(length, _LONGEST_HEADER)))
                return StoredIndex(sidecar, header, safetensors_header.LENGTH + length)
        raw = read_bytes(sidecar)
        start = safetensors_header.LENGTH + safetensors_header.length_of(raw)
        header = safetensors_header.unpack(raw[safetensors_header.LENGTH : start])
        length, fingerprint, _ = _facts(header)
        spans, keys, pixels = (_array(raw, start, header[name], kind) for name, kind in _ARRAYS.items())
        if (
            spans.shape[1:] != (4, 2)
            or pixels.shape[1:] != (2,)
            or keys.ndim != 2
            or not len(spans) == len(keys) == len(pixels) > 0
        ):
            raise ValueError("its parts do not fit each other")
        return ShardIndex(spans, keys, pixels, length, fingerprint)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise ShardError(
            f"The index {sidecar} is damaged ({error}). Delete it: the shard's own headers are then read."
        ) from error


def _array(raw: bytes, start: int, entry: Mapping[str, Any], kind: type[np.generic]) -> np.ndarray:
    first, last = entry["data_offsets"]
    return np.frombuffer(raw[start + first : start + last], dtype=kind).reshape(entry["shape"])
