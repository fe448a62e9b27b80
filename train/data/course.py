"""How large each global batch is, and which place in the endless order of rows it begins at: a run may change
its batch."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Course:
    """`changes`: (step, rows): from that step on, counted from 0, a global batch has so many rows. The first is
    of step 0."""

    changes: tuple[tuple[int, int], ...]

    @staticmethod
    def of(changes: int | Sequence[Sequence[int]]) -> Course:
        """One size throughout, or changes as JSON keeps them."""
        found = [(0, changes)] if isinstance(changes, int) else [(int(step), int(rows)) for step, rows in changes]
        kept = found[:1] + [after for before, after in pairwise(found) if after[1] != before[1]]
        return Course(tuple(kept))

    def batch_size(self, step: int) -> int:
        """Rows of a step's global batch."""
        return self.changes[self._at(step)][1]

    def rows_before(self, step: int) -> int:
        """Rows of all global batches before a step's: its batch's place in the order."""
        whole = sum((after[0] - before[0]) * before[1] for before, after in pairwise(self.changes[: self._at(step) + 1]))
        first, rows = self.changes[self._at(step)]
        return whole + (step - first) * rows

    def step_of(self, place: int) -> int:
        """The step whose global batch holds a place of the order."""
        starts = [self.rows_before(step) for step, _ in self.changes]
        last = bisect_right(starts, place) - 1
        step, rows = self.changes[last]
        return step + (place - starts[last]) // rows

    def continued(self, step: int, after: Course) -> Course:
        """What was done before `step`, and from it on what another course has there."""
        done = [change for change in self.changes if change[0] < step]
        return Course.of([*done, (step, after.batch_size(step)), *(change for change in after.changes if change[0] > step)])

    def _at(self, step: int) -> int:
        return bisect_right(self.changes, step, key=lambda change: change[0]) - 1
