"""Tables of text: .csv and .tsv, as people's tools write them."""

from __future__ import annotations

import csv
import io

from .storage import read_bytes
from .texts import decode_text


class TableError(ValueError):
    """A table that cannot be read: what is wrong, what was found, and what to do."""


def read_table(path: str, errors: str = "strict") -> tuple[list[str], list[list[str]]]:
    """The heading of a table, and its rows, without those that are blank.

    errors: what becomes of bytes that are no text, as `bytes.decode` has it.

    Raises TableError.
    """
    try:
        text = decode_text(read_bytes(path), errors=errors)
    except FileNotFoundError as error:
        raise TableError(f"There is no file {path}.") from error
    except OSError as error:
        raise TableError(f"The table {path} cannot be opened ({error.strerror or error}).") from error
    except UnicodeDecodeError as error:
        raise TableError(f"The table {path} is cut short, or no text ({error}). Save it as UTF-8.") from error
    records = _tab_separated(text) if path.lower().endswith(".tsv") else _comma_separated(path, text)
    heading, *rows = [record for record in records if record] or [[]]
    for record in rows:
        if any(record[len(heading) :]) and len(heading) > 1:  # one column alone: it is another sign that separates them
            raise TableError(
                f"The table {path} has {len(heading)} columns, and a row of {len(record)} cells, which begins with "
                f"{record[0][:80]!r}. Put a cell with a comma or a tab in it in quotes."
            )
    return heading, rows


def _comma_separated(path: str, text: str) -> list[list[str]]:
    # Lines as the format has them: U+2028, form feeds and the like, which web text holds, end none.
    strict = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        return list(strict)
    except csv.Error as error:
        why, line = str(error), strict.line_num
    if "unexpected end" not in why:
        try:
            records = list(csv.reader(io.StringIO(text, newline="")))
        except csv.Error as error:
            why = str(error)
        else:
            # Of cells that are quoted wrongly, one that has several lines may be several rows.
            if not any("\n" in cell or "\r" in cell for record in records for cell in record):
                return records
    raise TableError(
        f'The table {path} cannot be read ({why}, line {line}): most likely a quotation mark (") opens in a row and never '
        "closes, or stands within a quoted cell. Write a quotation mark within a quoted cell twice."
    )


def _tab_separated(text: str) -> list[list[str]]:
    """Most tools quote nothing here, and a caption may begin with a quotation mark.

    Some quote cells with line breaks in them.
    """
    lines = [line.rstrip("\r\n") for line in io.StringIO(text, newline="")]
    lines = [line for line in lines if line]
    tabs = lines[0].count("\t") if lines else 0
    if any(line.count("\t") != tabs for line in lines) and any(
        cell.startswith('"') for line in lines for cell in line.split("\t")
    ):
        try:
            return list(csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True))
        except csv.Error:  # not so quoted, then
            pass
    return [[_unquoted(cell) for cell in line.split("\t")] for line in lines]


def _unquoted(cell: str) -> str:
    inner = cell[1:-1]
    if len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return cell
