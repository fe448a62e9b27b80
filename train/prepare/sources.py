"""Where photographs with captions come from: a folder, a table, or webdataset tars, cut into units of work.

A unit becomes at most one shard. It is small to send to a worker and reads its records there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..data.folders import PICTURES, Beside, existing, pictures_below
from ..data.shards import ShardError, ShardSource, find_shards
from ..data.storage import is_local, join, list_files
from ..data.texts import decode_text, name_of, parse_json
from .names import SortedNames
from .tables import Columns, Row, SourceError, Table, open_parquet, parquet_rows

logger = logging.getLogger(__name__)
Item = TypeVar("Item")


@dataclass(frozen=True)
class Record:
    """One photograph as it was found.

    `photo` is a path, a URL, or the file's bytes; `identity` names the person if known.
    """

    key: str
    photo: str | bytes
    caption: str | None
    identity: str | None = None
    word: str | None = None
    """The picture's class, as zero-shot classification is to name it, if known."""


@dataclass(frozen=True)
class BrokenRecord:
    """A record that could not be read at all."""

    key: str
    problem: str


class Unit(Protocol):
    """A stretch of a source. Equal units have equal `repr`, which tells a finished one from another."""

    @property
    def size(self) -> int | None:
        """How many records it has; None if that takes reading it."""
        ...

    def records(self) -> Iterator[Record | BrokenRecord]: ...


@dataclass(frozen=True)
class FolderUnit:
    """Pictures of a folder, each with its caption in a `.txt` of the same name, and `identity` (the person) and
    `class` (what it shows) in a `.json`, all optional."""

    root: str
    names: tuple[str, ...]

    @property
    def size(self) -> int:
        return len(self.names)

    def records(self) -> Iterator[Record | BrokenRecord]:
        beside = Beside(self.names)
        for name in self.names:
            photo = Path(self.root, name)
            key = key_of(name)
            try:
                caption, described = beside.find(photo, "txt"), beside.find(photo, "json")
                text = decode_text(caption.read_bytes()).strip() if caption else None
                meta = parse_json(described.read_bytes()) if described else {}
            except (OSError, ValueError) as error:  # text that is no UTF-8 is a ValueError
                yield BrokenRecord(key, f"the caption or json beside {photo} cannot be read ({error})")
                continue
            yield Record(key, str(photo), text, _said(meta, "identity"), _said(meta, "class"))


@dataclass(frozen=True)
class RowsUnit:
    """Rows of a table: (path or URL, caption, person, class), numbered from `start`."""

    folder: str
    start: int
    rows: tuple[Row, ...]

    @property
    def size(self) -> int:
        return len(self.rows)

    def records(self) -> Iterator[Record | BrokenRecord]:
        for number, (photo, caption, identity, word) in enumerate(self.rows, start=self.start):
            key = f"{number:09d}"
            if not photo:
                yield BrokenRecord(key, f"row {number} of the table names no photograph")
            elif caption and any("\udc80" <= letter <= "\udcff" for letter in caption):  # what "surrogateescape" left
                yield BrokenRecord(key, f"the caption of row {number} is not UTF-8: save the table as UTF-8")
            else:
                found = photo if isinstance(photo, bytes) else _beside(self.folder, photo)
                yield Record(key, found, caption.strip() if caption else None, identity, word)


@dataclass(frozen=True)
class ParquetUnit:
    """Rows `start` to `stop` of a parquet file, read where the unit is worked on."""

    path: str
    start: int
    stop: int
    columns: Columns

    @property
    def size(self) -> int:
        return self.stop - self.start

    def records(self) -> Iterator[Record | BrokenRecord]:
        number = self.start
        try:
            for row in parquet_rows(self.path, self.start, self.stop, self.columns):
                yield from RowsUnit(_folder_of(self.path), number, (row,)).records()
                number += 1
        except Exception as error:  # of damaged pages pyarrow raises what comes
            problem = f"rows {number} to {self.stop - 1} of {self.path} cannot be read ({str(error)[:200]})"
            yield BrokenRecord(f"{number:09d}", problem)


@dataclass(frozen=True)
class TarUnit:
    """A webdataset tar, local or by URL."""

    path: str

    @property
    def size(self) -> None:
        return None

    def records(self) -> Iterator[Record | BrokenRecord]:
        try:
            whole, bare = ShardSource(self.path), ShardSource(self.path, read=("image", "meta"))
        except ValueError as error:
            yield BrokenRecord(Path(self.path).name, str(error))
            return
        for row in range(len(whole)):
            try:
                if not whole.has(row, "image"):
                    raise SourceError("it has no photograph (no .jpg, .png or .webp of its name)")
                sample = (whole if whole.has(row, "caption") else bare)[row]
            except ValueError as error:
                yield BrokenRecord(whole.key(row), str(error))
                continue
            caption = sample.caption.strip() if whole.has(row, "caption") else None
            yield Record(key_of(sample.key), sample.image, caption, _said(sample.meta, "identity"), _said(sample.meta, "class"))


@dataclass(frozen=True)
class Units:
    """A source's units in their order, made as they are asked for: neither names nor rows of all are held at once.

    Iterate as often as you like.
    """

    make: Callable[[], Iterator[Unit]]
    shard_size: int
    records: int = 0
    """In the first units, of `shard_size` records each, the last of them of the rest."""
    tars: int = 0
    """Units that follow, of which nobody knows how many records they have."""

    def __iter__(self) -> Iterator[Unit]:
        return self.make()

    def __len__(self) -> int:
        return -(-self.records // self.shard_size) + self.tars

    def size_of(self, number: int) -> int | None:
        """How many records a unit has, None for a tar."""
        left = self.records - number * self.shard_size
        return min(left, self.shard_size) if left > 0 else None


def find_units(source: str, shard_size: int, columns: Columns, need_captions: bool = False) -> Units:
    """Cut a source into units of `shard_size` records; each tar is one.

    Raises:
        SourceError: there is nothing there, a table lacks a column (with
            `need_captions`, that of captions), or its kind is unknown.
    """
    suffix = Path(source).suffix.lower()
    if suffix == ".parquet":
        count, columns = open_parquet(source, columns, need_captions)
        return Units(partial(_parquet_units, source, columns, count, shard_size), shard_size, count)
    if suffix in (".csv", ".tsv"):
        table = Table(source, columns, need_captions)
        return Units(partial(_table_units, table, _folder_of(source), shard_size), shard_size, len(table))
    tars = _tars(source)
    if is_local(source) and Path(source).is_dir():
        return _folder_units(Path(source), shard_size, tars)
    if tars:
        return Units(lambda: map(TarUnit, tars), shard_size, tars=len(tars))
    found = "nothing there" if not list_files(source) else "something else"
    raise SourceError(
        f"{source} is not a source of photographs: found {found}. Give a folder with pictures and .txt captions, "
        "a .csv, .tsv or .parquet of paths and captions, or webdataset .tar files (one, a folder, or a pattern)."
    )


def _tars(source: str) -> list[str]:
    if not _names_a_tar(source):
        return []
    try:
        return find_shards([source])
    except ShardError as error:  # one is missing whose index is there
        raise SourceError(str(error)) from error


def _names_a_tar(source: str) -> bool:
    if not is_local(source) or not Path(source).is_dir():
        return any(name.endswith(".tar") for name in list_files(source))
    with os.scandir(source) as entries:  # there may be millions of pictures in it
        return any(entry.name.endswith(".tar") for entry in entries)


def _folder_units(root: Path, shard_size: int, tars: list[str]) -> Units:
    """Pictures of a folder.

    Beside tars they count where they have captions: shards may have a picture of a report by them.
    """
    names = SortedNames(pictures_below(root))
    if not len(names) and not tars:
        raise SourceError(f"The folder {root} holds no picture ({', '.join(PICTURES)}) and no .tar.")
    if tars and len(names):
        if not any(_captioned(root, part) for part in _parts(names, shard_size)):
            first = next(iter(names))
            logger.warning("%s holds tars: its %d pictures without captions, such as %s, are left out.", root, len(names), first)
            names = SortedNames([])
        else:
            logger.warning("%s holds pictures and %d tars: both are read.", root, len(tars))

    def made(names: SortedNames) -> Iterator[Unit]:
        yield from (FolderUnit(str(root), part) for part in _parts(names, shard_size))
        yield from map(TarUnit, tars)

    return Units(partial(made, names), shard_size, len(names), len(tars))


def _captioned(root: Path, names: Sequence[str]) -> bool:
    beside = Beside(names)
    return any(beside.find(root / name, "txt") or beside.find(root / name, "json") for name in names)


def _parquet_units(path: str, columns: Columns, count: int, shard_size: int) -> Iterator[Unit]:
    for start in range(0, count, shard_size):
        yield ParquetUnit(path, start, min(start + shard_size, count), columns)


def _table_units(table: Table, folder: str, shard_size: int) -> Iterator[Unit]:
    for number, part in enumerate(_parts(table, shard_size)):
        yield RowsUnit(folder, number * shard_size, part)


def _folder_of(path: str) -> str:
    return path.rpartition("/")[0] or "."


def _beside(folder: str, photo: str) -> str:
    """Where a table's photograph lies."""
    if not is_local(photo):
        return photo
    return existing(folder, photo) if is_local(folder) or Path(photo).is_absolute() else join(folder, photo)


def _said(described: Any, name: str) -> str | None:
    return name_of(described.get(name)) if isinstance(described, dict) else None


def _parts(items: Iterable[Item], size: int) -> Iterator[tuple[Item, ...]]:
    waiting = iter(items)
    while part := tuple(islice(waiting, size)):
        yield part


def key_of(name: str) -> str:
    """A webdataset key for a file's name: without its extension, and without
    dots and slashes, which mean something there."""
    stem = name.rpartition(".")[0] if Path(name).suffix.lower() in PICTURES else name
    stem = stem.encode(errors="backslashreplace").decode()  # file names need not be UTF-8
    return stem.replace("\\", "/").strip("/").replace("/", "__").replace(".", "_")
