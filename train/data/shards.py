"""Shards: webdataset-compatible tars of training tuples, each with an index beside it that gives random access.

One sample is up to four members of one key: `jpg` (the photograph), `face.jpg` (its aligned 448 px crop),
`txt` (the caption) and `json` (landmarks, quality, identity when known). Photographs of `train.prepare` are
sRGB and carry no metadata (`train.prepare.photographs`). The index `NAME.tar.index` is a safetensors file:
where each member lies, every key, the photographs' sizes, and the tar's length and fingerprint, so that a cut
or exchanged tar is noticed.
"""

from __future__ import annotations

import hashlib
import io
import json
import posixpath
import tarfile
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, get_args

import numpy as np

from .shard_index import INDEX_SUFFIX, ShardError, read_index, scan_tar, write_index
from .storage import is_local, list_files, publishing, read_range
from .texts import decode_text, parse_json

Member = Literal["image", "face", "caption", "meta"]
MEMBERS: tuple[Member, ...] = get_args(Member)
INDEX_READERS = 16
LARGEST_GAP = 1 << 15
"""Bytes that are read without being wanted, rather than asking twice."""
EXTENSIONS: dict[Member, str] = {"image": "jpg", "face": "face.jpg", "caption": "txt", "meta": "json"}


@dataclass(frozen=True)
class Sample:
    """One training tuple: photograph, caption, and the aligned face (none in a guided image-text pair)."""

    key: str
    image: bytes
    """A JPEG, upright RGB; empty when the source was told not to read it."""
    face: bytes | None
    """A JPEG of 448 x 448 px, the crop of `faceclip.face.align_face`; None for a pair without a face."""
    caption: str
    meta: dict[str, Any] = field(default_factory=dict)
    """`identity` (int) when known, `landmarks`, `quality`, and whatever else the shard's `json` holds."""

    @property
    def identity(self) -> int:
        """The label of the person, -1 when unknown. Raises ShardError for what is no label."""
        label = self.meta.get("identity", -1)
        if isinstance(label, float) and label.is_integer():
            label = int(label)
        if type(label) is not int or not -1 <= label < 2**63:
            raise ShardError(
                f"The sample {self.key!r} has the identity {str(label)[:40]!r} in its json. Labels are whole numbers from 0: run "
                "train.prepare, which makes them of names, or leave it out."
            )
        return label


def write_shard(path: str | Path, samples: Iterable[Sample]) -> int:
    """Write a tar and its index; return how many samples are in it.

    Each file appears whole or not at all, the index last.

    The same samples give the same bytes. `path` may be an fsspec URL.

    Raises:
        ShardError: there is no sample, a key is used twice or has a dot, or a
            sample has neither photograph nor caption.
    """
    path = str(path)
    with publishing(path) as file:
        sizes = _write_tar(file, samples, path)
        index = scan_tar(file, path, fingerprint=_digest(file))
    index.pixels[:] = sizes
    write_index(path + INDEX_SUFFIX, index)
    return len(index)


def _write_tar(file: IO[bytes], samples: Iterable[Sample], path: str) -> list[tuple[int, int]]:
    """Write the samples; return their photographs' sizes, as far as their meta tells them."""
    seen: set[str] = set()
    sizes: list[tuple[int, int]] = []
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for sample in samples:
            _check_writable(sample, seen, path)
            seen.add(sample.key)
            height, width = sample.meta.get("size", (0, 0))
            sizes.append((int(height), int(width)))
            for member, data in _encode(sample).items():
                entry = tarfile.TarInfo(f"{sample.key}.{EXTENSIONS[member]}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    if not seen:
        raise ShardError(f"No sample to write to {path}: a shard holds at least one.")
    return sizes


def _digest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _check_writable(sample: Sample, seen: set[str], path: str) -> None:
    if sample.key in seen:
        raise ShardError(f"The key {sample.key!r} is there twice in {path}; every sample of a shard needs its own.")
    name = posixpath.basename(sample.key)
    if not name or "." in name:
        raise ShardError(f"The key {sample.key!r} cannot be stored: webdataset ends a key at its first dot. Leave dots out.")
    if not sample.image and not sample.caption:
        raise ShardError(f"The sample {sample.key!r} has neither a photograph nor a caption.")


def _encode(sample: Sample) -> dict[Member, bytes]:
    members: dict[Member, bytes] = {"image": sample.image}
    if sample.face is not None:
        members["face"] = sample.face
    members["caption"] = sample.caption.encode()
    members["meta"] = json.dumps(sample.meta, sort_keys=True).encode()
    return members


class ShardSource:
    """The samples of some shards as one long sequence: `len(source)`,
    `source[i]`, safe to share among threads and processes.

    Holds no open file: rows are read with one range request each. The indexes of local shards stay on the disk,
    so that a source of any length costs a process some hundred bytes per shard; those of remote shards are held
    in memory.
    """

    def __init__(self, paths: str | Path | Sequence[str | Path], read: Collection[Member] = MEMBERS):
        """
        Args:
            paths: tars, folders of tars, or patterns with `*`; local or fsspec URLs. Sorted by name within each.
            read: the members to read; what is left out costs no input and comes back empty. `meta` holds the identity.

        Raises:
            ShardError: there is not a tar, or one is empty, cut short, or not a tar.
        """
        unknown = set(read) - set(MEMBERS)
        if unknown:
            raise ShardError(f"A sample has no member {sorted(unknown)}. Choose among: {', '.join(MEMBERS)}.")
        self.shards = find_shards([paths] if isinstance(paths, str | Path) else paths)
        self._columns = [MEMBERS.index(member) for member in MEMBERS if member in read]
        with ThreadPoolExecutor(INDEX_READERS) as readers:  # a thousand small files, each a round trip where they are remote
            self._indexes = list(readers.map(read_index, self.shards))
        self._starts = np.cumsum([0, *(len(index) for index in self._indexes)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __repr__(self) -> str:
        # grain names its steps by repr: short, and no listing of a thousand shards.
        return f"ShardSource({len(self)} samples in {len(self.shards)} shards)"

    @property
    def fingerprint(self) -> str:
        """Hex digest over the shards' contents in order; caches carry it, so that they never meet other data."""
        digest = hashlib.sha256()
        for index in self._indexes:
            digest.update(f"{index.fingerprint} {len(index)}\n".encode())
        return digest.hexdigest()

    def missing(self, member: Member) -> int:
        """How many samples lack a member, by the indexes alone."""
        column = MEMBERS.index(member)
        return sum(index.absent[column] for index in self._indexes)

    def sizes(self) -> np.ndarray:
        """int32 [N, 2]: height and width of every photograph in pixels, by the indexes alone.

        0 where they are not known.
        """
        return np.concatenate([index.sizes() for index in self._indexes])

    def has(self, row: int, member: Member) -> bool:
        """Whether a row has a member, by its index alone."""
        shard, local = self._locate(row)
        return bool(self._indexes[shard].lookup(local)[1][MEMBERS.index(member), 1] >= 0)

    def key(self, row: int) -> str:
        """The key of a row, without reading its data."""
        shard, local = self._locate(row)
        return self._indexes[shard].lookup(local)[0]

    def __getitem__(self, row: int) -> Sample:
        """Read one sample.

        Raises:
            IndexError: there is no such row.
            ShardError: the row's caption is missing, or its shard was cut or exchanged since the source was opened.
        """
        shard, local = self._locate(row)
        path = self.shards[shard]
        key, table = self._indexes[shard].lookup(local)
        spans: dict[Member, np.ndarray] = {MEMBERS[column]: table[column] for column in self._columns}
        length = self._indexes[shard].bytes
        if any(size >= 0 and not tarfile.BLOCKSIZE <= start <= length - size for start, size in spans.values()):
            raise ShardError(
                f"The index {path}{INDEX_SUFFIX} is damaged: it places sample {key!r} outside of the shard. Delete it: the "
                "shard's own headers are then read."
            )
        present: dict[Member, tuple[int, int]] = {}
        for member, (start, size) in spans.items():
            if size >= 0:
                present[member] = int(start), int(size)
        if "caption" in spans and "caption" not in present:
            raise ShardError(f"The sample {key!r} of {path} has no caption (no {key}.txt). Add it, or run train.prepare again.")
        data = _read_spans(path, present, key)
        return Sample(
            key=key,
            image=data.get("image", b""),
            face=data.get("face"),
            caption=_parse_caption(data.get("caption", b""), key, path),
            meta=_parse_meta(data.get("meta"), key, path),
        )

    def _locate(self, row: int) -> tuple[int, int]:
        if not 0 <= row < len(self):
            raise IndexError(f"There is no row {row}: the source has {len(self)}.")
        shard = int(np.searchsorted(self._starts, row, side="right")) - 1
        return shard, int(row - self._starts[shard])


def _read_spans(path: str, spans: dict[Member, tuple[int, int]], key: str) -> dict[Member, bytes]:
    """Read some members of one sample with a single request over the stretch that holds them, or, where a large
    member that nobody wants lies between, one on each side of it."""
    found: dict[Member, bytes] = {}
    stretch: dict[Member, tuple[int, int]] = {}
    end = 0
    for member, (start, size) in sorted(spans.items(), key=lambda span: span[1]):
        if stretch and start - end > LARGEST_GAP:
            found |= _read_stretch(path, stretch, key)
            stretch = {}
        stretch[member] = start, size
        end = start + size
    return found | _read_stretch(path, stretch, key) if stretch else found


def _read_stretch(path: str, spans: dict[Member, tuple[int, int]], key: str) -> dict[Member, bytes]:
    # The tar's own header of the first member tells whether the index belongs to this tar: an exchanged one may be as long.
    start, size = min(spans.values())
    first = start - tarfile.BLOCKSIZE
    last = max(start + size for start, size in spans.values())
    try:
        block = read_range(path, first, last)
    except FileNotFoundError as error:
        raise ShardError(f"There is no shard {path} any more: it was there when the run began. Put it back.") from error
    if len(block) != last - first:
        raise ShardError(f"{path} was cut short: it ends before byte {last}. Copy it again.")
    if not _is_header(block[: tarfile.BLOCKSIZE], size):
        raise ShardError(
            f"{path} is not the tar its index was made for: sample {key!r} does not lie where the index says. "
            f"Copy both again, or delete {path}{INDEX_SUFFIX}: the shard's own headers are then read."
        )
    return {member: block[start - first : start - first + size] for member, (start, size) in spans.items()}


def _is_header(block: bytes, size: int) -> bool:
    """Whether a block of a tar is the header of a file of `size` bytes."""
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape").size == size
    except tarfile.HeaderError:
        return False


def _parse_caption(data: bytes, key: str, path: str) -> str:
    try:
        return decode_text(data)
    except UnicodeDecodeError as error:
        raise ShardError(
            f"The sample {key!r} of {path} has a caption that is not UTF-8 ({error}). Save it as UTF-8, or run train.prepare: "
            "it leaves such samples out."
        ) from error


def _parse_meta(data: bytes | None, key: str, path: str) -> dict[str, Any]:
    if not data:
        return {}
    try:
        meta = parse_json(data)
    except ValueError as error:
        raise ShardError(f"The sample {key!r} of {path} has a json that cannot be read ({error}).") from error
    if not isinstance(meta, dict):
        raise ShardError(f"The sample {key!r} of {path} has a json that is not an object but {type(meta).__name__}.")
    return meta


def find_shards(paths: Iterable[str | Path]) -> list[str]:
    """The tars that folders, patterns and names stand for.

    Raises:
        ShardError: one of them names none.
    """
    found: list[str] = []
    for path in map(str, paths):
        names = set(list_files(path))
        if "*" in path and path.endswith(".tar"):  # the indexes tell of shards that are not there any more
            names |= set(list_files(path + INDEX_SUFFIX))
        tars = sorted(name for name in names if name.endswith(".tar"))
        for name in sorted(names):
            shard = name.removesuffix(INDEX_SUFFIX)
            if name.endswith(f".tar{INDEX_SUFFIX}") and shard not in names:
                raise ShardError(
                    f"{name} has no shard {posixpath.basename(shard)} beside it: a shard is missing. Copy it again, or "
                    "delete its index to go on without it."
                )
        if not tars:
            where = "on this machine" if is_local(path) else "there"
            raise ShardError(
                f"No shard at {path}: there is no .tar {where}. Make shards with: python -m train.prepare SOURCE OUT"
            )
        found.extend(tars)
    return found


__all__ = ["INDEX_SUFFIX", "MEMBERS", "Member", "Sample", "ShardError", "ShardSource", "find_shards", "write_shard"]
