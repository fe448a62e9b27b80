"""Samples that cannot be used, and those that take their places."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from .shard_index import ShardError
from .stacking import DataError

Found = TypeVar("Found")


def first_usable(
    read: Callable[[int], Found], row: int, others: Iterator[int], tolerate: int, key: Callable[[int], str]
) -> tuple[Found, list[tuple[str, str]]]:
    """What `read` makes of a row, or of the first of the others that can be used; and the unusable ones before it.

    The latter by key, with what is wrong. Raises DataError for more than `tolerate` in a row; with 0, what `read`
    raised.
    """
    unusable: list[tuple[str, str]] = []
    while True:
        try:
            return read(row), unusable
        except (DataError, ShardError) as error:
            if not tolerate:
                raise
            unusable.append((key(row), str(error)))
            if len(unusable) > tolerate:
                raise DataError(f"More than {tolerate} samples in a row cannot be used. The last: {error}") from error
            row = next(others)
