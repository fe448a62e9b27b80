"""Copy-paste: its values where they can be worked out by hand, and its bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from faceclip.metrics import copy_paste_scores, photographs_alike


def at(degrees: float) -> np.ndarray:
    """A unit vector [3] in the plane of the first two axes."""
    return np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees)), 0], np.float32)


NOBODY = np.zeros((0, 0), np.float32)


@pytest.mark.parametrize(
    ("picture", "expected"),
    [(at(0), 1), (at(20), 0.5), (at(40), 0), (at(80), -1), (np.array([0, 0, 1], np.float32), 0)],
    ids=["copy", "near", "between", "the other", "a stranger"],
)
def test_between_the_reference_and_another_photograph(picture: np.ndarray, expected: float) -> None:
    found = copy_paste_scores([picture[None]], at(0)[None], [at(80)[None]])
    assert found.copy_paste == pytest.approx([expected], abs=1e-3)
    assert found.other_photographs == pytest.approx([float(picture @ at(80))], abs=1e-6)


def test_several_photographs_count_alike_and_the_reference_saved_again_does_not() -> None:
    others = np.stack([at(60), at(0.5), at(-30)])
    found = copy_paste_scores([at(15)[None]], at(0)[None], [others])
    assert found.copy_paste == pytest.approx([((45 - 15) / 60 + (45 - 15) / 30) / 2], abs=1e-3)
    alike = (math.cos(math.radians(60)) + math.cos(math.radians(30))) / 2
    assert photographs_alike(at(0)[None], [others]) == pytest.approx([alike], abs=1e-6)


def test_no_face_and_no_other_photograph_give_no_number() -> None:
    found = copy_paste_scores([NOBODY, at(0)[None], at(0)[None]], np.stack([at(0)] * 3), [at(80)[None], NOBODY, at(1)[None]])
    assert np.isnan(found.copy_paste).all()
    assert np.isnan(found.other_photographs).all()
    assert np.isnan(photographs_alike(np.stack([at(0)] * 2), [NOBODY, at(1)[None]])).all()


def test_of_several_faces_the_person_counts() -> None:
    both = np.stack([np.array([0, 0, 1], np.float32), at(20)])
    assert copy_paste_scores([both], at(0)[None], [at(80)[None]]).copy_paste == pytest.approx([0.5], abs=1e-3)


def test_it_stays_within_one_of_zero() -> None:
    vectors = np.random.default_rng(0).standard_normal((600, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = copy_paste_scores(list(vectors[:200, None]), vectors[200:400], list(vectors[400:, None])).copy_paste
    assert np.abs(found).max() <= 1 + 1e-9
    assert abs(found.mean()) < 0.1, "strangers lean to neither side"
