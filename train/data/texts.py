"""Text as people's tools write it: with or without a mark at its start, in either form of accents."""

from __future__ import annotations

import codecs
import json
import re
import unicodedata
from typing import Any

_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_MOST_VALUES = 1_000_000  # of a YAML file


def decode_text(data: bytes, errors: str = "strict") -> str:
    """Bytes as text: UTF-8, or what the mark at their start says (Notepad's and PowerShell's UTF-8 and UTF-16).

    Raises UnicodeDecodeError, unless `errors` says otherwise.
    """
    return data.decode(encoding_of(data), errors)


def encoding_of(start: bytes) -> str:
    """What text is written in that begins with these bytes, four or more: UTF-8, or what the mark there says."""
    return next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8")


def parse_json(data: bytes) -> Any:
    """JSON in any of these encodings. Raises ValueError for what is none, also for one nested too deep to be read."""
    try:
        return json.loads(decode_text(data))
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def parse_yaml(data: bytes) -> Any:
    """YAML in any of these encodings.

    Raises ValueError for what is none, and for what would unfold without end.
    """
    import yaml

    try:
        found = yaml.safe_load(decode_text(data))
    except (yaml.YAMLError, RecursionError, OverflowError) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
    waiting, count = [found], 0
    while waiting:  # its names for parts may stand for each other: a few lines are billions of values
        value, count = waiting.pop(), count + 1
        if count > _MOST_VALUES:
            raise ValueError(f"it unfolds to more than {_MOST_VALUES:,} values")
        waiting += (
            [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else ()
        )
    return found


def name_of(value: Any) -> str | None:
    """What a table or a json calls a person or a class, as text; None for nothing.

    1, "1" and 1.0 are one: whole numbers get a fraction where their
    column has gaps. So are both spellings of an accent.
    """
    if value is None or value != value:  # NaN: pandas' nothing
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = unicodedata.normalize("NFC", value.decode(errors="replace") if isinstance(value, bytes) else str(value)).strip()
    return re.sub(r"^(-?\d+)\.0+$", r"\1", text) or None


def folded(name: str) -> str:
    """A file's name as Windows and macOS compare names: in either case, with accents in one form."""
    return unicodedata.normalize("NFC", name).casefold()
