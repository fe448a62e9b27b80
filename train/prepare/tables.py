"""Tables of photographs: .csv, .tsv and .parquet, as people's tools write them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..data.storage import open_seekable, size_of
from ..data.tables import TableError, TextTable
from ..data.texts import name_of

Row = tuple[str | bytes | None, str | None, str | None, str | None]
"""What a table says of a photograph: path, URL or the file's bytes, caption, person, class."""


class SourceError(ValueError):
    """A source that cannot be read: what is wrong, what was found, and what to do."""


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns."""

    image_column: str = "path"
    """Column with the photographs' paths (relative ones start at the table's folder) or URLs; of a parquet also with
    their bytes. Where there is no `path`, a parquet's `image`."""
    caption_column: str = "caption"
    """Column with the captions; of several captions in a row, the first."""
    identity_column: str = "identity"
    """Column that names the person; may be absent."""
    class_column: str = "class"
    """Column with the word for what a picture shows, which zero-shot classification has to find; may be absent."""


def names(columns: Columns) -> tuple[str, str, str, str]:
    return columns.image_column, columns.caption_column, columns.identity_column, columns.class_column


class Table:
    """The rows of a .csv or .tsv, read as they are asked for, as often as you like."""

    def __init__(self, path: str, columns: Columns, need_captions: bool):
        """Raises SourceError."""
        self._columns = columns
        try:
            self._text = TextTable(path, errors="surrogateescape")  # a row that is no UTF-8 is told with the rows
        except TableError as error:
            raise SourceError(str(error)) from error
        require_columns(path, self._text.heading, columns, need_captions)
        if not len(self._text):
            raise SourceError(f"The table {path} has no row below its heading.")

    def __len__(self) -> int:
        return len(self._text)

    def __iter__(self) -> Iterator[Row]:
        return (_row(dict(zip(self._text.heading, record, strict=False)), self._columns) for record in self._text)


def open_parquet(path: str, columns: Columns, need_captions: bool) -> tuple[int, Columns]:
    """The number of rows of a parquet file, and its columns. Raises SourceError."""
    import pyarrow.parquet as parquet

    if size_of(path) is None:
        raise SourceError(f"There is no file {path}.")
    try:
        file = parquet.ParquetFile(open_seekable(path))
        found, count = list(file.schema_arrow.names), file.metadata.num_rows
    except Exception as error:  # pyarrow's own, OSError, and of damaged footers whatever comes
        raise SourceError(f"{path} is not a parquet file, or is damaged ({str(error)[:200]}).") from error
    if columns.image_column == "path" and "path" not in found and "image" in found:
        columns = Columns("image", columns.caption_column, columns.identity_column, columns.class_column)
    require_columns(path, found, columns, need_captions)
    if count <= 0:
        raise SourceError(f"The table {path} has no row.")
    return count, columns


def parquet_rows(path: str, start: int, stop: int, columns: Columns) -> Iterator[Row]:
    """Rows `start` to `stop`. Of a damaged file comes whatever pyarrow raises."""
    import pyarrow.parquet as parquet

    file = parquet.ParquetFile(open_seekable(path))
    wanted = [name for name in names(columns) if name in file.schema_arrow.names]
    first = 0
    for group in range(file.num_row_groups):
        after = first + file.metadata.row_group(group).num_rows
        if first < stop and after > start:
            table = file.read_row_group(group, columns=wanted)
            low, high = max(start, first) - first, min(stop, after) - first
            for place in range(low, high, 64):  # pictures may be in it: few at a time
                yield from (_row(row, columns) for row in table.slice(place, min(64, high - place)).to_pylist())
        first = after


def require_columns(path: str, found: Sequence[str], columns: Columns, need_captions: bool) -> None:
    """Raise SourceError where a column is absent that is needed, or was named."""
    usual, has = Columns(), ", ".join(found) or "none"
    if columns.image_column not in found:
        raise SourceError(
            f"The table {path} has no column {columns.image_column!r} with the photographs' paths; it has {has}. Name it with "
            "--image-column (and --caption-column, --identity-column, --class-column)."
        )
    if columns.caption_column not in found and need_captions:
        raise SourceError(
            f"The table {path} has no column {columns.caption_column!r} with captions; it has {has}. Name it with "
            "--caption-column, or a model that writes captions with --caption-model."
        )
    for what, name, common in (
        ("caption", columns.caption_column, usual.caption_column),
        ("identity", columns.identity_column, usual.identity_column),
        ("class", columns.class_column, usual.class_column),
    ):
        if name not in found and name != common:
            raise SourceError(f"The table {path} has no column {name!r}; it has {has}. Check --{what}-column.")


def _row(row: dict[str, Any], columns: Columns) -> Row:
    photo, caption, identity, word = (row.get(name) for name in names(columns))
    if isinstance(photo, dict):  # as Hugging Face's `datasets` writes pictures
        photo = photo.get("bytes") or photo.get("path")
    if isinstance(caption, list):
        caption = next((text for text in caption if text), None)
    photo = photo if photo is None or isinstance(photo, bytes) else str(photo)
    return photo or None, None if caption is None else str(caption), name_of(identity), name_of(word)
