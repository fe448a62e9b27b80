"""Aspect buckets: pictures of one shape per step, the same shape on all
ranks, so that no rank waits for a larger one."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np


class BucketBatches:
    """Global batches of one bucket each, a pure function of the step: ranks
    agree without talking, and resuming is exact.

    Each bucket deals its rows in a fresh order per epoch and carries what is left over into the next, so that
    every row is seen equally often however small its bucket.
    """

    def __init__(self, bucket_of_row: np.ndarray, batch_size: int, seed: int, before: tuple[BucketBatches, int] | None = None):
        """
        Args:
            bucket_of_row: int [N]; rows below 0 are never dealt.
            before: batches of another size, or of other buckets of the same rows, and how many of them were taken. These
                go on in the same epoch with the rows that those have not dealt in it; steps count from 0 again.

        Raises ValueError if there is no row.
        """
        if not (bucket_of_row >= 0).any():
            raise ValueError("There is no picture to train on.")
        self.batch_size = batch_size
        self.seed = seed
        self._bucket_of_row = bucket_of_row
        names = np.unique(bucket_of_row[bucket_of_row >= 0])
        self._rows = {int(name): np.flatnonzero(bucket_of_row == name) for name in names}
        self._first_epoch = 0
        self._dealt = dict.fromkeys(self._rows, 0)
        """How many rows each bucket has dealt before step 0, since the run began."""
        self._skipped: dict[int, np.ndarray] = {}
        """Places of each bucket's order that were passed over before step 0, since an epoch's batches come in random
        order. They are dealt first."""
        self._leads: dict[tuple[int, int], np.ndarray] = {}
        """Orders of the first epoch that begin with the rows that were dealt in other buckets."""
        self._orders: dict[tuple[int, int], np.ndarray] = {}
        self._plan: tuple[int, list[tuple[int, int]]] = (-1, [])
        if before:
            self._go_on(*before)

    def batch(self, step: int) -> np.ndarray:
        """Rows of the global batch of a step, int64 [batch_size], all of one bucket."""
        bucket, places = self.places(step)
        return np.array([self.row(bucket, place) for place in places])

    def places(self, step: int) -> tuple[int, range]:
        """The bucket of a step's global batch, and the places of its rows in the bucket's endless order."""
        epoch = self._epoch(step)
        bucket, number = self._batches_of(epoch)[step - self._steps_before(epoch)]
        start = self._dealt[bucket] + number * self.batch_size
        return bucket, range(start, start + self.batch_size)

    def row(self, bucket: int, place: int) -> int:
        """The row at a place of a bucket's endless order."""
        epoch, at = divmod(self._shifted(bucket, place), len(self._rows[bucket]))
        return int(self._order_at(bucket, epoch)[at])

    def _order_at(self, bucket: int, epoch: int) -> np.ndarray:
        """The order of a bucket's rows in an epoch, kept as long as it may be asked for again."""
        key = (bucket, epoch)
        if key not in self._orders:
            self._orders = {k: order for k, order in self._orders.items() if k[0] != bucket or k[1] >= epoch - 1}
            self._orders[key] = self._order(bucket, epoch)
        return self._orders[key]

    def _go_on(self, before: BucketBatches, steps: int) -> None:
        self._first_epoch = before._epoch(steps)
        skipped = before._skipped_by(steps)
        if np.array_equal(before._bucket_of_row, self._bucket_of_row):
            self._leads, self._skipped = before._leads, {bucket: places for bucket, (places, _) in skipped.items()}
            self._dealt = {bucket: end - len(places) for bucket, (places, end) in skipped.items()}
            return
        seen = before._seen(skipped, self._first_epoch)
        for bucket, rows in self._rows.items():
            first, rest = rows[seen[rows]], rows[~seen[rows]]
            order = np.random.default_rng([self.seed, bucket, self._first_epoch, 1]).permutation(rest)
            self._leads[bucket, self._first_epoch] = np.concatenate([first, order])
            self._dealt[bucket] = self._first_epoch * len(rows) + len(first)

    def _shifted(self, bucket: int, place: int) -> int:
        """The place of the bucket's order that is dealt as its `place`-th."""
        skipped = self._skipped.get(bucket, ())
        number = place - self._dealt[bucket]
        return int(skipped[number]) if number < len(skipped) else place

    def _skipped_by(self, steps: int) -> dict[int, tuple[np.ndarray, int]]:
        """Of each bucket's order: the places before a step that were passed over, and the place that nothing lies
        behind."""
        epoch = self._epoch(steps)
        done = self._batches_of(epoch)[: steps - self._steps_before(epoch)]
        found = {}
        for bucket in self._rows:
            numbers = {number for each, number in done if each == bucket}
            first = self._batches_before(bucket, epoch)
            last = max(numbers, default=first - 1)
            left = [number for number in range(first, last + 1) if number not in numbers]
            older = self._skipped.get(bucket, np.empty(0, dtype=int))
            dealt = np.array(left, dtype=int)[:, None] * self.batch_size + np.arange(self.batch_size)
            again = dealt.flatten()  # as counted from step 0: the older ones, then what follows them
            places = np.concatenate([older[again[again < len(older)]], self._dealt[bucket] + again[again >= len(older)]])
            rest = older[(last + 1) * self.batch_size :]
            end = self._dealt[bucket] + max((last + 1) * self.batch_size, len(older))
            found[bucket] = np.concatenate([places, rest]), end
        return found

    def _seen(self, skipped: dict[int, tuple[np.ndarray, int]], epoch: int) -> np.ndarray:
        """bool [N]: the rows that were dealt in an epoch, or ahead of it."""
        seen = np.zeros(len(self._bucket_of_row), dtype=bool)
        for bucket, rows in self._rows.items():
            left, end = skipped[bucket]
            dealt = np.setdiff1d(np.arange(epoch * len(rows), end), left)
            for number in np.unique(dealt // len(rows)):
                seen[self._order_at(bucket, int(number))[dealt[dealt // len(rows) == number] % len(rows)]] = True
        return seen

    def _epoch(self, step: int) -> int:
        """The epoch that a step is in: the last one that at most `step` steps come before."""
        total = sum(map(len, self._rows.values()))
        about = (step + len(self._rows) + 1) * self.batch_size // total + 2
        epochs = range(self._first_epoch, self._first_epoch + about + 1)
        return epochs[bisect_right(epochs, step, key=self._steps_before) - 1]

    def _steps_before(self, epoch: int) -> int:
        return sum(self._batches_before(bucket, epoch) for bucket in self._rows)

    def _batches_before(self, bucket: int, epoch: int) -> int:
        """How many batches a bucket deals from step 0 to the beginning of an epoch: as many as are whole by then."""
        return max(0, epoch * len(self._rows[bucket]) - self._dealt[bucket]) // self.batch_size

    def _batches_of(self, epoch: int) -> list[tuple[int, int]]:
        """The epoch's batches in random order: (bucket, number of the batch within the bucket)."""
        if self._plan[0] != epoch:
            batches = [
                (bucket, number)
                for bucket in self._rows
                for number in range(self._batches_before(bucket, epoch), self._batches_before(bucket, epoch + 1))
            ]
            order = np.random.default_rng([self.seed, epoch]).permutation(len(batches))
            self._plan = (epoch, [batches[i] for i in order])
        return self._plan[1]

    def _order(self, bucket: int, epoch: int) -> np.ndarray:
        if (bucket, epoch) in self._leads:
            return self._leads[bucket, epoch]
        return np.random.default_rng([self.seed, bucket, epoch, 1]).permutation(self._rows[bucket])
