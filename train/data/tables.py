"""Tables of text: .csv and .tsv, as people's tools write them."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from .storage import is_local, read_bytes
from .texts import encoding_of


class TableError(ValueError):
    """A table that cannot be read: what is wrong, what was found, and what to do."""


class TextTable:
    """The rows of a .csv or .tsv, without those that are blank, read from the file as they are asked for.

    Iterate as often as you like. A URL's file is copied once to a temporary one.
    """

    heading: list[str]

    def __init__(self, path: str, errors: str = "strict"):
        """errors: what becomes of bytes that are no text, as `bytes.decode` has it. Raises TableError."""
        self._path, self._errors = path, errors
        try:
            self._copy = None if is_local(path) else _copied(path)
            self._records = self._tab_separated() if path.lower().endswith(".tsv") else self._comma_separated()
        except FileNotFoundError as error:
            raise TableError(f"There is no file {path}.") from error
        except OSError as error:
            raise TableError(f"The table {path} cannot be opened ({error.strerror or error}).") from error
        self.heading = next(self._whole(), [])
        self._count = sum(map(self._fits, self))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[list[str]]:
        return islice(self._whole(), 1, None)

    def _whole(self) -> Iterator[list[str]]:
        return (record for record in self._records() if record)

    def _fits(self, record: list[str]) -> int:
        columns = len(self.heading)
        if any(record[columns:]) and columns > 1:  # one column alone: it is another sign that separates them
            raise TableError(
                f"The table {self._path} has {columns} columns, and a row of {len(record)} cells, which begins with "
                f"{record[0][:80]!r}. Put a cell with a comma or a tab in it in quotes."
            )
        return 1

    def _comma_separated(self) -> _Reader:
        """The way of reading that suits all of the file: strict, or as loose as many tools write."""
        strict = self._csv(",", strict=True)
        try:
            for _ in strict:
                pass
            return partial(self._csv, ",", strict=True)
        except csv.Error as error:
            why, line = str(error), strict.line_num
        if "unexpected end" not in why:
            try:
                # Of cells that are quoted wrongly, one that has several lines may be several rows.
                several = any("\n" in cell or "\r" in cell for record in self._csv(",", strict=False) for cell in record)
            except csv.Error as error:
                why = str(error)
            else:
                if not several:
                    return partial(self._csv, ",", strict=False)
        raise TableError(
            f'The table {self._path} cannot be read ({why}, line {line}): most likely a quotation mark (") opens in a row and '
            "never closes, or stands within a quoted cell. Write a quotation mark within a quoted cell twice."
        )

    def _tab_separated(self) -> _Reader:
        """Most tools quote nothing here, and a caption may begin with a quotation mark.

        Some quote cells with line breaks in them.
        """
        tabs: set[int] = set()
        quotes = False
        for line in self._plain_lines():
            tabs.add(line.count("\t"))
            quotes = quotes or any(cell.startswith('"') for cell in line.split("\t"))
        if len(tabs) > 1 and quotes:
            try:
                for _ in self._csv("\t", strict=True):
                    pass
                return partial(self._csv, "\t", strict=True)
            except csv.Error:  # not so quoted, then
                pass
        return lambda: ([_unquoted(cell) for cell in line.split("\t")] for line in self._plain_lines())

    def _csv(self, delimiter: str, strict: bool) -> Any:
        return csv.reader(self._lines(), delimiter=delimiter, strict=strict)

    def _plain_lines(self) -> Iterator[str]:
        return filter(None, (line.rstrip("\r\n") for line in self._lines()))

    def _lines(self) -> Iterator[str]:
        """Lines as the formats have them: U+2028, form feeds and the like, which web text holds, end none."""
        with Path(self._copy.name if self._copy else self._path).open("rb") as file:
            text = io.TextIOWrapper(file, encoding_of(file.peek(4)), errors=self._errors, newline="")
            try:
                yield from text
            except UnicodeDecodeError as error:
                raise TableError(f"The table {self._path} is cut short, or no text ({error}). Save it as UTF-8.") from error


_Reader = Callable[[], Iterator[list[str]]]


def _copied(path: str) -> Any:
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115 - it goes when nobody has it any more
    file.write(read_bytes(path))
    file.flush()
    return file


def read_table(path: str) -> tuple[list[str], list[list[str]]]:
    """The heading of a small table, and its rows, all in memory. Raises TableError."""
    table = TextTable(path)
    return table.heading, list(table)


def _unquoted(cell: str) -> str:
    inner = cell[1:-1]
    if len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return cell
