"""The endless order of rows: main tuples mixed with guided pairs, shuffled by seed, and each rank's share of it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import count
from typing import Any

from .course import Course
from .quiet_grain import grain

ENDLESS = 1 << 60
"""Length of the sequence of samples: more than any run takes."""


def mixed_rows(main: int, guided: int, fraction: float, seed: int) -> grain.MapDataset:
    """The endless sequence of row numbers, guided ones counted after the `main` ones."""
    rows = grain.MapDataset.source(range(main)).seed(seed).shuffle().repeat()
    if not guided:
        return rows
    others = grain.MapDataset.source(range(main, main + guided)).seed(seed + 1).shuffle().repeat()
    return grain.MapDataset.mix([rows, others], weights=[1 - fraction, fraction])


def following(order: grain.MapDataset, place: int, main: int) -> Iterator[int]:
    """The rows of the order after a place that are of its kind: main tuples, of which there are `main`, or guided
    pairs."""

    def row_at(at: int) -> int:
        row: Any = order[at]
        return int(row)

    guided = row_at(place) >= main
    return (row for row in map(row_at, count(place + 1)) if (row >= main) == guided)


class RankShare:
    """The rows of one rank: of every global batch the rank-th block, each as (place in the global sequence, row
    number).

    Blocks, not a stride: `mix` interleaves in a fixed pattern, so that with lambda one half a stride of two would
    give one rank all the faces and the other none. Any block of b rows holds lambda b guided ones, give or take
    one.
    """

    def __init__(self, order: grain.MapDataset, batches: int | Course, rank: int, world_size: int):
        self._order, self._course = order, Course.of(batches) if isinstance(batches, int) else batches
        self._rank, self._world_size = rank, world_size
        self._starts = [self._course.rows_before(step) for step, _ in self._course.changes]
        self._own_starts = [start // world_size for start in self._starts]

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> tuple[int, int]:
        stretch = bisect_right(self._own_starts, int(index)) - 1
        batch_size = self._course.changes[stretch][1]
        rows = batch_size // self._world_size
        step, local = divmod(int(index) - self._own_starts[stretch], rows)
        place = self._starts[stretch] + step * batch_size + self._rank * rows + local
        row: Any = self._order[place]
        return place, int(row)
