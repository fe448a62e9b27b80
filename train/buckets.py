"""Aspect buckets: pictures of one shape per step, the same shape on all ranks, so that no rank waits for a larger one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STEP = 64  # SDXL's sides are multiples of it


@dataclass(frozen=True)
class Bucket:
    """A shape of training pictures, in pixels."""

    height: int
    width: int


@dataclass(frozen=True)
class Framing:
    """How a picture of `original` size became one of a bucket's: scaled until it covers the bucket, then cropped at (top, left).

    SDXL is told all three (its size and crop conditioning), so they stay with the latents that they belong to.
    """

    original: tuple[int, int]  # height, width
    scaled: tuple[int, int]
    top_left: tuple[int, int]
    bucket: Bucket

    @property
    def time_ids(self) -> tuple[int, int, int, int, int, int]:
        """SDXL's micro-conditioning: original height, width, crop top, left, target height, width."""
        return (*self.original, *self.top_left, self.bucket.height, self.bucket.width)


def aspect_buckets(resolution: int, step: int = STEP, max_ratio: float = 2.0) -> list[Bucket]:
    """Shapes of at most `resolution` squared pixels with sides in multiples of `step`, up to `max_ratio` tall or wide."""
    buckets = []
    for height in range(step, int(resolution * max_ratio) + 1, step):
        width = min(resolution * resolution // height // step * step, int(resolution * max_ratio))
        if width >= step and max(height / width, width / height) <= max_ratio:
            buckets.append(Bucket(height, width))
    return buckets


def nearest_bucket(height: int, width: int, buckets: Sequence[Bucket]) -> int:
    """Number of the bucket whose aspect ratio is nearest, on a log scale."""
    return int(np.argmin([abs(np.log(b.width / b.height) - np.log(width / height)) for b in buckets]))


def frame(height: int, width: int, bucket: Bucket) -> Framing:
    """Fit a picture into a bucket: scale it to cover the bucket, crop the middle. Deterministic, so that caches can be trusted."""
    scale = max(bucket.height / height, bucket.width / width)
    scaled = max(bucket.height, round(height * scale)), max(bucket.width, round(width * scale))
    top_left = (scaled[0] - bucket.height) // 2, (scaled[1] - bucket.width) // 2
    return Framing((height, width), scaled, top_left, bucket)


class BucketBatches:
    """Global batches of one bucket each, a pure function of the step: ranks agree without talking, and resuming is exact.

    Each bucket deals its rows in a fresh order per epoch and carries what is left over into the next, so that every row is
    seen equally often however small its bucket.
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
