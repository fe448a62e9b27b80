"""How sure a number is: bootstrap over groups of images, and the interval of a share of votes."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from .errors import MetricError, require

RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A mean and where it lies with probability `level`.

    `low` and `high` are NaN where one cluster or none tells nothing.
    """

    mean: float
    low: float
    high: float
    level: float
    clusters: int
    """How many independent groups stand behind it."""


def cluster_bootstrap(
    values: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable],
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The mean of `values` [N] and its bootstrap interval, drawing whole clusters with replacement.

    Images of one person are not independent: they share the reference, and with it most of what makes a likeness
    hard or easy. So identities are drawn, each with all its images; drawing images would give an interval that is
    far too narrow. NaN (an image without a face) is left out. The percentiles are widened for few clusters, with
    Student's t on n - 1 degrees (Hesterberg 2015, "expanded percentile interval"): plain ones cover too seldom
    with 15 identities.

    Raises:
        MetricError: lengths that differ, a level outside (0, 1).
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or len(data) != len(clusters):
        raise MetricError(f"Every value needs its cluster: found {data.shape} values and {len(clusters)} clusters.")
    if not 0 < level < 1:
        raise MetricError(f"The interval's level is {level}; it lies between 0 and 1, such as 0.95.")
    sums, counts = _by_cluster(data, clusters)
    number = len(sums)
    mean = float(sums.sum() / counts.sum()) if number else math.nan
    if number < 2:
        return Interval(mean, math.nan, math.nan, level, number)
    drawn = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=resamples)
    means = (drawn @ sums) / (drawn @ counts)
    tail = _expanded_tail((1 - level) / 2, number)
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(mean, float(low), float(high), level, number)


def wilson(successes: int, total: int, level: float = 0.95) -> Interval:
    """The interval of a share of `total` independent votes (Wilson 1927).

    It stays within [0, 1] and holds for few votes.

    Raises MetricError for more successes than votes. No votes give NaN.
    """
    if not 0 <= successes <= total:
        raise MetricError(f"{successes} of {total} votes is not a share.")
    if total == 0:
        return Interval(math.nan, math.nan, math.nan, level, 0)
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half), level, total)


def _by_cluster(data: np.ndarray, clusters: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """Sum and count of each cluster that has a value, clusters in the order they first appear."""
    places: dict[Hashable, int] = {}
    known = [(places.setdefault(name, len(places)), value) for name, value in zip(clusters, data, strict=True) if value == value]
    index = np.array([place for place, _ in known], dtype=np.int64)
    sums = np.bincount(index, [value for _, value in known], minlength=len(places))
    return sums.astype(np.float64), np.bincount(index, minlength=len(places)).astype(np.float64)


def _expanded_tail(tail: float, number: int) -> float:
    require("scipy", "scipy", "An interval")
    from scipy import stats

    quantile = float(stats.t.ppf(tail, number - 1))
    return NormalDist().cdf(math.sqrt(number / (number - 1)) * quantile)
