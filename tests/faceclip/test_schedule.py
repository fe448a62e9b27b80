"""Strengths over the sampling: what a schedule means, and what is refused."""

from __future__ import annotations

import re

import pytest

from faceclip.schedule import Part, strength_parts


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((1.0,), [(0, 1, 1)]),
        ((0.0, 0.2, 0.8), [(0, 1, 0)]),
        ((1.0, 0.2), [(0, 0.2, 0), (0.2, 1, 1)]),
        ((0.7, 0.0, 0.8), [(0, 0.8, 0.7), (0.8, 1, 0)]),
        ((0.5, 0.1, 0.9), [(0, 0.1, 0), (0.1, 0.9, 0.5), (0.9, 1, 0)]),
        ((1.0, 0.0, 1.0, "0:0.4, 0.3:1"), [(0, 0.3, 0.4), (0.3, 1, 1)]),
        ((1.0, 0.0, 1.0, "0.3:0.5\n0.6:0.5"), [(0, 0.3, 1), (0.3, 1, 0.5)]),
        ((1.0, 0.0, 1.0, " 0:1 , "), [(0, 1, 1)]),
        ((1.0, 0.2, 0.7, "0:0.4,0.5:1"), [(0, 0.2, 0), (0.2, 0.5, 0.4), (0.5, 0.7, 1), (0.7, 1, 0)]),
    ],
)
def test_parts_follow_each_other_from_noise_to_picture(arguments: tuple, expected: list) -> None:
    assert strength_parts(*arguments) == [Part(*part) for part in expected]


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        ("often", "has 'often', which cannot be read"),
        ("0:0.4:1", "has '0:0.4:1', which cannot be read"),
        ("0:0.4, 1:1", "has '1:1': a start is from 0 (noise) to below 1"),
        ("-0.1:1", "has '-0.1:1': a start is"),
        ("0:2", "has '0:2': a strength is from 0 to 1.5"),
        ("0:nan", "has '0:nan': a strength is"),
        ("0.5:1, 0.2:0", "has '0.2:0' after 0.5: starts must rise"),
    ],
)
def test_a_schedule_that_cannot_be_read_is_refused_with_the_entry_and_an_example(schedule: str, told: str) -> None:
    with pytest.raises(ValueError, match=f'{re.escape(told)}.*Write START:STRENGTH.*"0:0.4, 0.3:1"'):
        strength_parts(1.0, schedule=schedule)


@pytest.mark.parametrize(("start", "end"), [(0.5, 0.5), (0.8, 0.2), (-0.1, 1), (0, 1.1), (float("nan"), 1)])
def test_a_range_that_is_none_is_refused(start: float, end: float) -> None:
    with pytest.raises(ValueError, match="the start must come before the end"):
        strength_parts(1.0, start, end)
