"""Intervals: do they hold what they promise, on data whose truth is known?"""

from __future__ import annotations

import math

import numpy as np
import pytest

from faceclip.metrics import MetricError, cluster_bootstrap, wilson


def people(random: np.random.Generator, number: int, images: int, between: float, within: float) -> tuple[np.ndarray, list[int]]:
    """Images of people whose own level varies: mean 0."""
    level = random.normal(0, between, number)
    values = level[:, None] + random.normal(0, within, (number, images))
    return values.ravel(), np.repeat(np.arange(number), images).tolist()


@pytest.mark.parametrize("number", [8, 15, 60])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(number: int) -> None:
    random = np.random.default_rng(number)
    runs = 400
    covered = 0
    for run in range(runs):
        values, who = people(random, number, 20, between=1.0, within=0.5)
        found = cluster_bootstrap(values, who, resamples=400, seed=run)
        covered += found.low <= 0 <= found.high
    # Four standard errors of a share of 95 % in 400 runs are 4.4 %.
    assert 0.90 <= covered / runs <= 0.995


def test_drawing_images_instead_of_people_would_cover_far_too_seldom() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for run in range(200):
        values, _ = people(random, 15, 20, between=1.0, within=0.5)
        found = cluster_bootstrap(values, list(range(len(values))), resamples=200, seed=run)
        covered += found.low <= 0 <= found.high
    assert covered / 200 < 0.6


def test_the_mean_is_that_of_all_images_that_have_a_value() -> None:
    found = cluster_bootstrap([1.0, 2.0, math.nan, 6.0], ["a", "a", "a", "b"])
    assert found.mean == pytest.approx(3.0)
    assert found.clusters == 2
    assert 1.5 <= found.low <= 3.0 <= found.high <= 6.0


def test_a_person_without_any_value_is_no_cluster() -> None:
    assert cluster_bootstrap([1.0, 2.0, math.nan], ["a", "b", "c"]).clusters == 2


def test_the_same_seed_gives_the_same_interval() -> None:
    values, who = people(np.random.default_rng(1), 10, 5, 1, 1)
    assert cluster_bootstrap(values, who, seed=3) == cluster_bootstrap(values, who, seed=3)
    assert cluster_bootstrap(values, who, seed=3) != cluster_bootstrap(values, who, seed=4)


def test_one_person_and_nobody_have_no_interval() -> None:
    one = cluster_bootstrap([1.0, 2.0], ["a", "a"])
    assert one.mean == 1.5
    assert math.isnan(one.low)
    assert math.isnan(cluster_bootstrap([math.nan], ["a"]).mean)


def test_wrong_lengths_and_levels_are_refused() -> None:
    with pytest.raises(MetricError, match="2 clusters"):
        cluster_bootstrap([1.0], ["a", "b"])
    with pytest.raises(MetricError, match="between 0 and 1"):
        cluster_bootstrap([1.0], ["a"], level=95)


def test_wilson_is_the_published_interval() -> None:
    # 8 of 10 at 95 %: 0.490 to 0.943 (Wilson's formula with z = 1.96).
    found = wilson(8, 10)
    assert (found.low, found.high) == (pytest.approx(0.4902, abs=5e-4), pytest.approx(0.9433, abs=5e-4))
    assert wilson(0, 5).low == 0
    assert wilson(5, 5).high == 1
    assert math.isnan(wilson(0, 0).mean)
    with pytest.raises(MetricError, match="6 of 5 votes"):
        wilson(6, 5)


def test_wilson_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    truth = random.uniform(0.05, 0.95, 2000)  # one truth alone would show the steps of 25 votes
    found = [wilson(int(votes), 25) for votes in random.binomial(25, truth)]
    covered = [interval.low <= share <= interval.high for interval, share in zip(found, truth, strict=True)]
    assert 0.93 <= np.mean(covered) <= 0.97
