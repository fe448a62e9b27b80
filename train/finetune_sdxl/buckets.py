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

    def __init__(self, bucket_of_row: np.ndarray, batch_size: int, seed: int):
        """`bucket_of_row`: int [N]. Raises ValueError if there is no row."""
        if not len(bucket_of_row):
            raise ValueError("There is no picture to train on.")
        self.batch_size = batch_size
        self.seed = seed
        names = np.unique(bucket_of_row)
        self._rows = {int(name): np.flatnonzero(bucket_of_row == name) for name in names}
        self._orders: dict[tuple[int, int], np.ndarray] = {}
        self._plan: tuple[int, list[tuple[int, int]]] = (-1, [])

    def batch(self, step: int) -> np.ndarray:
        """Rows of the global batch of a step, int64 [batch_size], all of one bucket."""
        epoch = self._epoch(step)
        bucket, number = self._batches_of(epoch)[step - self._steps_before(epoch)]
        start = number * self.batch_size
        return np.array([self._row(bucket, position) for position in range(start, start + self.batch_size)])

    def _epoch(self, step: int) -> int:
        """The epoch that a step is in: the last one that at most `step` steps come before."""
        total = sum(map(len, self._rows.values()))
        about = (step + len(self._rows) + 1) * self.batch_size // total + 2
        return bisect_right(range(about + 1), step, key=self._steps_before) - 1

    def _steps_before(self, epoch: int) -> int:
        return sum(epoch * len(rows) // self.batch_size for rows in self._rows.values())

    def _batches_of(self, epoch: int) -> list[tuple[int, int]]:
        """The epoch's batches in random order: (bucket, number of the batch within the bucket since the run began)."""
        if self._plan[0] != epoch:
            batches = [
                (bucket, number)
                for bucket, rows in self._rows.items()
                for number in range(epoch * len(rows) // self.batch_size, (epoch + 1) * len(rows) // self.batch_size)
            ]
            order = np.random.default_rng([self.seed, epoch]).permutation(len(batches))
            self._plan = (epoch, [batches[i] for i in order])
        return self._plan[1]

    def _row(self, bucket: int, position: int) -> int:
        rows = self._rows[bucket]
        epoch, place = divmod(position, len(rows))
        key = (bucket, epoch)
        if key not in self._orders:
            self._orders = {k: order for k, order in self._orders.items() if k[0] != bucket or k[1] >= epoch - 1}
            self._orders[key] = np.random.default_rng([self.seed, bucket, epoch, 1]).permutation(rows)
        return int(self._orders[key][place])
