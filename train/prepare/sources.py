"""Where photographs with captions come from: a folder, a table, or webdataset tars, cut into units of work.

A unit becomes at most one shard. It is small to send to a worker and reads its records there.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..data.shards import ShardSource
from ..data.storage import is_local, join, list_files, open_seekable, read_bytes, size_of

# Also kinds that may turn out to be unreadable here, so that the report names them.
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif")


Row = tuple[str | None, str | None, str | None, str | None]
"""What a table says of a photograph: path or URL, caption, person, class."""


class SourceError(ValueError):
    """A source that cannot be read: what is wrong, what was found, and what to do."""


@dataclass(frozen=True)
class Record:
    """One photograph as it was found. `photo` is a path, a URL, or the file's bytes; `identity` names the person if known."""

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
class Columns:
    """Names of a table's columns."""

    image_column: str = "path"
    """Column with the photographs' paths (relative ones start at the table's folder) or URLs."""
    caption_column: str = "caption"
    """Column with the captions."""
    identity_column: str = "identity"
    """Column that names the person; may be absent."""
    class_column: str = "class"
    """Column with the word for what a picture shows, which zero-shot classification has to find; may be absent."""


@dataclass(frozen=True)
class FolderUnit:
    """Pictures of a folder, each with its caption in a `.txt` of the same name, and `identity` (the person) and `class` (what it
    shows) in a `.json`, all optional."""

    root: str
    names: tuple[str, ...]

    @property
    def size(self) -> int:
        return len(self.names)

    def records(self) -> Iterator[Record | BrokenRecord]:
        for name in self.names:
            photo = Path(self.root, name)
            key = key_of(name)
            caption, described = photo.with_suffix(".txt"), photo.with_suffix(".json")
            try:
                text = caption.read_text("utf-8-sig").strip() if caption.is_file() else None
                meta = json.loads(described.read_text("utf-8")) if described.is_file() else {}
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
                yield BrokenRecord(key, f"the caption of row {number} is no UTF-8: save the table as UTF-8")
            else:
                yield Record(
                    key, _beside(self.folder, photo), caption.strip() if caption else None, identity or None, word or None
                )


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
        rows = tuple(self._rows())
        yield from RowsUnit(_folder_of(self.path), self.start, rows).records()

    def _rows(self) -> Iterator[Row]:
        import pyarrow.parquet as parquet

        file = parquet.ParquetFile(open_seekable(self.path))
        wanted = [name for name in _names(self.columns) if name in file.schema.names]
        first = 0
        for group in range(file.num_row_groups):
            after = first + file.metadata.row_group(group).num_rows
            if first < self.stop and after > self.start:
                table = file.read_row_group(group, columns=wanted)
                low, high = max(self.start, first) - first, min(self.stop, after) - first
                yield from (_row(row, self.columns) for row in table.slice(low, high - low).to_pylist())
            first = after


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


def find_units(source: str, shard_size: int, columns: Columns) -> list[Unit]:
    """Cut a source into units of `shard_size` records; each tar is one.

    Raises:
        SourceError: there is nothing there, a table lacks a column, or its kind is unknown.
    """
    suffix = Path(source).suffix.lower()
    if suffix == ".parquet":
        return _parquet_units(source, shard_size, columns)
    if suffix in (".csv", ".tsv"):
        return _csv_units(source, shard_size, columns, "\t" if suffix == ".tsv" else ",")
    tars: list[Unit] = [TarUnit(name) for name in list_files(source) if name.endswith(".tar")]
    if tars:
        return tars
    if is_local(source) and Path(source).is_dir():
        return _folder_units(Path(source), shard_size)
    found = "nothing there" if not list_files(source) else "something else"
    raise SourceError(
        f"{source} is no source of photographs: found {found}. Give a folder with pictures and .txt captions, "
        "a .csv, .tsv or .parquet of paths and captions, or webdataset .tar files (one, a folder, or a pattern)."
    )


def _folder_units(root: Path, shard_size: int) -> list[Unit]:
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.suffix.lower() in PICTURES)
    if not names:
        raise SourceError(f"The folder {root} holds no picture ({', '.join(PICTURES)}) and no .tar.")
    return [FolderUnit(str(root), tuple(part)) for part in _parts(names, shard_size)]


def _csv_units(path: str, shard_size: int, columns: Columns, delimiter: str) -> list[Unit]:
    text = _existing(path).decode("utf-8-sig", errors="surrogateescape")  # a row that is none is told with the rows
    reader = csv.DictReader(text.splitlines(keepends=True), delimiter=delimiter)
    _require_columns(path, list(reader.fieldnames or []), columns)
    rows = [_row(row, columns) for row in reader]
    if not rows:
        raise SourceError(f"The table {path} has no row below its heading.")
    return [RowsUnit(_folder_of(path), n * shard_size, tuple(part)) for n, part in enumerate(_parts(rows, shard_size))]


def _parquet_units(path: str, shard_size: int, columns: Columns) -> list[Unit]:
    import pyarrow
    import pyarrow.parquet as parquet

    if size_of(path) is None:
        raise SourceError(f"There is no file {path}.")
    try:
        file = parquet.ParquetFile(open_seekable(path))
    except (pyarrow.ArrowException, OSError) as error:
        raise SourceError(f"{path} is no parquet file, or damaged ({error}).") from error
    _require_columns(path, file.schema.names, columns)
    count = file.metadata.num_rows
    if not count:
        raise SourceError(f"The table {path} has no row.")
    starts = range(0, count, shard_size)
    return [ParquetUnit(path, start, min(start + shard_size, count), columns) for start in starts]


def _require_columns(path: str, found: Sequence[str], columns: Columns) -> None:
    if columns.image_column not in found:
        raise SourceError(
            f"The table {path} has no column {columns.image_column!r} with the photographs' paths; "
            f"it has {', '.join(found) or 'none'}. Name it with --image-column "
            "(and --caption-column, --identity-column, --class-column)."
        )


def _row(row: dict[str, Any], columns: Columns) -> Row:
    photo, caption, identity, word = (None if row.get(name) is None else str(row[name]) for name in _names(columns))
    return photo, caption, identity, word


def _names(columns: Columns) -> tuple[str, str, str, str]:
    return columns.image_column, columns.caption_column, columns.identity_column, columns.class_column


def _existing(path: str) -> bytes:
    try:
        return read_bytes(path)
    except FileNotFoundError as error:
        raise SourceError(f"There is no file {path}.") from error


def _folder_of(path: str) -> str:
    return path.rpartition("/")[0] or "."


def _beside(folder: str, photo: str) -> str:
    return photo if not is_local(photo) or Path(photo).is_absolute() else join(folder, photo)


def _said(described: Any, name: str) -> str | None:
    value = described.get(name) if isinstance(described, dict) else None
    return None if value is None else str(value)


def _parts(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def key_of(name: str) -> str:
    """A webdataset key for a file's name: without its extension, and without dots and slashes, which mean something there."""
    stem = name.rpartition(".")[0] if Path(name).suffix.lower() in PICTURES else name
    stem = stem.encode(errors="backslashreplace").decode()  # file names need not be UTF-8
    return stem.replace("\\", "/").strip("/").replace("/", "__").replace(".", "_")
