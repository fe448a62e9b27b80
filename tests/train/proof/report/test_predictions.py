"""Verdicts and intervals on numbers that are made up, so that the right answer is known."""

from __future__ import annotations

import math

import pytest

from train.proof.report.predictions import Verdict, verdicts
from train.proof.report.results import Estimate, Results, relative

SEEDS = range(5)
# As docs/proof.md predicts them.
PREDICTED = {
    "L1": {"zero_shot": 0.68, "knn": 0.12, "face_sim": 0.10, "clip_t": 0.9},
    "L2": {"zero_shot": 0.62, "knn": 0.95, "face_sim": 0.40, "clip_t": 0.9},
    "L3": {"zero_shot": 0.64, "knn": 0.94, "face_sim": 0.40, "clip_t": 0.9},
    "no guided": {"zero_shot": 0.10, "knn": 0.95, "face_sim": 0.45, "clip_t": 0.9},
    "diffusion only": {"zero_shot": 0.03, "knn": 0.70, "face_sim": 0.60, "clip_t": 0.9},
    "untrained": {"zero_shot": 0.03, "knn": 0.20, "face_sim": 0.15, "clip_t": 0.9},
    "plain": {"zero_shot": 0.64, "knn": 0.94, "face_sim": 0.40, "clip_t": 0.9},
    "fused token": {"zero_shot": 0.64, "knn": 0.93, "face_sim": 0.20, "clip_t": 0.9},
    "lambda 0.1": {"zero_shot": 0.50, "knn": 0.94},
    "lambda 0.5": {"zero_shot": 0.66, "knn": 0.93},
    "batch x0.5": {"zero_shot": 0.50, "knn": 0.85},
    "batch x2": {"zero_shot": 0.70, "knn": 0.97},
    "share 0.25 diffusion only": {"knn": 0.40},
    "share 0.5 diffusion only": {"knn": 0.60},
    "share 1 diffusion only": {"knn": 0.80},
}
TEACHERS = {"teachers/clip": {"leak": 0.05, "leak_chance": 0.01}, "teachers/face_tower": {"knn": 0.95}}


def results(changes: dict[str, dict[str, float]] | None = None, seeds: range = SEEDS) -> Results:
    """The predicted numbers, with some changed; seeds scatter by 0.004, alternately for neighbouring arms."""
    values = {}
    for place, (arm, measures) in enumerate(PREDICTED.items()):
        found = {**measures, **(changes or {}).get(arm, {})}
        spread = {m: {s: v + 0.004 * ((s + place) % 3 - 1) for s in seeds} for m, v in found.items()}
        values[arm] = spread
    return Results(values, TEACHERS)


def outcome(found: list[Verdict], claim: str) -> str:
    (verdict,) = [v for v in found if claim in v.claim]
    return verdict.outcome


def test_numbers_as_predicted_hold_every_claim() -> None:
    assert [v.claim for v in verdicts(results()) if v.outcome != "held"] == []
    assert {v.prediction for v in verdicts(results())} == set(range(1, 9))


@pytest.mark.parametrize(
    ("arm", "measure", "value", "claim"),
    [
        ("L1", "knn", 0.35, "L1's kNN identity is at most 0.3"),
        ("L3", "knn", 0.78, "L3's kNN identity is at least 0.8"),
        ("L1", "face_sim", 0.41, "Face Sim of L1 is lower than of L3"),
        ("L1", "zero_shot", 0.60, "L1 has the highest zero-shot"),
        ("no guided", "zero_shot", 0.40, "less than half of L3's"),
        ("no guided", "face_sim", 0.30, "without guided data Face Sim does not fall"),
        ("diffusion only", "knn", 0.10, "kNN identity of diffusion only is higher than of untrained"),
        ("diffusion only", "face_sim", 0.30, "Face Sim of diffusion only is higher than of L3"),
        ("diffusion only", "zero_shot", 0.20, "its zero-shot is at chance"),
        ("share 1 diffusion only", "knn", 0.50, "share 1 diffusion only is higher"),
        ("lambda 0.5", "zero_shot", 0.80, "from lambda 0.25 to 0.5"),
        ("batch x2", "knn", 0.90, "kNN identity rises with each doubling"),
        ("plain", "clip_t", 0.80, "do not differ in CLIP-T"),
        ("fused token", "face_sim", 0.41, "Face Sim of fused token is lower than of L3"),
    ],
)
def test_a_number_that_contradicts_a_claim_fails_it(arm: str, measure: str, value: float, claim: str) -> None:
    assert outcome(verdicts(results({arm: {measure: value}})), claim) == "failed"


def test_one_seed_decides_no_difference() -> None:
    found = verdicts(results(seeds=range(1)))
    assert outcome(found, "Face Sim of diffusion only is higher than of L3") == "undecided"
    assert outcome(found, "L1's kNN identity is at most 0.3") == "held"


def test_missing_numbers_decide_nothing() -> None:
    assert {v.outcome for v in verdicts(Results({}, {}))} == {"undecided"}


def test_the_interval_is_students() -> None:
    # Three values 1, 2, 3: mean 2, standard error 1 / sqrt(3), t(0.975, 2) = 4.30265.
    estimate = Estimate.of([1, 2, 3])
    assert (estimate.mean, estimate.low) == pytest.approx((2, 2 - 4.30265 / math.sqrt(3)), rel=1e-5)
    assert not estimate.above_zero and Estimate.of([1.9, 2, 2.1]).above_zero


def test_differences_are_paired_by_seed() -> None:
    values = {"a": {"knn": {0: 1.1, 1: 2.1, 2: 3.1}}, "b": {"knn": {0: 1.0, 1: 2.0, 2: 3.0, 3: 9.0}}}
    difference = Results(values, {}).difference("a", "b", "knn")
    assert difference.mean == pytest.approx(0.1) and difference.seeds == 3 and difference.above_zero


def test_face_similarity_is_nought_for_strangers_and_one_for_real_pictures() -> None:
    assert relative(0.2, 0.2, real=0.7, real_shuffled=0.1) == 0
    assert relative(0.7, 0.1, real=0.7, real_shuffled=0.1) == 1
