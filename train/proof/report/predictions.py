"""The predictions of docs/proof.md as code: each is held or failed by the numbers alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ..plan import BATCHES, LAMBDAS, SHARES, batch_arm, lambda_arm, share_arm
from .results import MEASURES, NAMES, Results

Outcome = Literal["held", "failed", "undecided"]
CLASSES = 40
CLOSE = 0.05
"""Within which two arms are called alike, and beyond which lambda gains little."""


@dataclass(frozen=True)
class Verdict:
    """One claim. `undecided` where numbers are missing, or a difference has no interval for want of seeds."""

    prediction: int
    claim: str
    outcome: Outcome
    numbers: str


def verdicts(results: Results) -> list[Verdict]:
    """All claims of docs/proof.md, in its order."""
    groups = (_table_3, _table_1, _figure_2, _shares, _lambdas, _batches, _variants, _teachers)
    return [verdict for number, group in enumerate(groups, start=1) for verdict in group(number, results)]


def _table_3(n: int, r: Results) -> list[Verdict]:
    zero_shot = [_mean(r, arm, "zero_shot") for arm in ("L1", "L2", "L3")]
    claims = [
        _at_most(n, "L1's kNN identity is at most 0.3", _mean(r, "L1", "knn"), 0.3),
        *(_at_least(n, f"{arm}'s kNN identity is at least 0.8", _mean(r, arm, "knn"), 0.8) for arm in ("L2", "L3")),
    ]
    for measure in ("knn", "face_sim"):
        claims += [_lower(n, r, "L1", arm, measure) for arm in ("L2", "L3")]
        claims.append(_alike(n, r, "L2", "L3", measure, CLOSE))
    spread = max(zero_shot) - min(zero_shot)
    claims.append(_at_most(n, "zero-shot of L1, L2 and L3 lies within 0.10", spread, 0.10))
    highest = _decided(zero_shot, zero_shot[0] == max(zero_shot))
    claims.append(Verdict(n, "L1 has the highest zero-shot of the three", highest, _list(zero_shot)))
    return claims


def _table_1(n: int, r: Results) -> list[Verdict]:
    with_guided, without = _mean(r, "L3", "zero_shot"), _mean(r, "no guided", "zero_shot")
    less = _decided([with_guided, without], without < with_guided / 2)
    claims = [Verdict(n, "without guided data zero-shot is less than half of L3's", less, _list([without, with_guided]))]
    for measure in ("knn", "face_sim"):
        difference = r.difference("no guided", "L3", measure)
        outcome: Outcome = ("failed" if difference.below_zero else "held") if difference.known else "undecided"
        claims.append(Verdict(n, f"without guided data {NAMES[measure]} does not fall", outcome, f"difference {difference}"))
    return claims


def _figure_2(n: int, r: Results) -> list[Verdict]:
    arm = "diffusion only"
    return [
        _at_least(n, "diffusion only's kNN identity is at least 0.5", _mean(r, arm, "knn"), 0.5),
        _higher(n, r, arm, "untrained", "knn"),
        _lower(n, r, arm, "L3", "knn"),
        _higher(n, r, arm, "L3", "face_sim"),
        _at_most(n, "its zero-shot is at chance (at most twice 1/40)", _mean(r, arm, "zero_shot"), 2 / CLASSES),
    ]


def _shares(n: int, r: Results) -> list[Verdict]:
    less, half, all_of_it = (share_arm(share, "diffusion only") for share in SHARES)
    return [_lower(n, r, less, half, "knn"), _higher(n, r, all_of_it, half, "knn")]


def _lambdas(n: int, r: Results) -> list[Verdict]:
    names = [lambda_arm(value) for value in LAMBDAS]
    zero_shot, knn = ([_mean(r, name, measure) for name in names] for measure in ("zero_shot", "knn"))
    rises = _decided(zero_shot, zero_shot[0] < zero_shot[1] < zero_shot[2])
    gain = zero_shot[3] - zero_shot[2]
    return [
        Verdict(n, "zero-shot rises from lambda 0 over 0.1 to 0.25", rises, _list(zero_shot)),
        _higher(n, r, names[2], names[0], "zero_shot"),
        _at_most(n, f"from lambda 0.25 to 0.5 zero-shot gains at most {CLOSE}", gain, CLOSE),
        _at_most(n, f"kNN identity of all lambdas lies within {CLOSE}", max(knn) - min(knn), CLOSE),
    ]


def _batches(n: int, r: Results) -> list[Verdict]:
    names = [batch_arm(factor) for factor in BATCHES]
    claims = []
    for measure in ("knn", "zero_shot"):
        means = [_mean(r, name, measure) for name in names]
        rises = _decided(means, means[0] < means[1] < means[2])
        claims.append(Verdict(n, f"{NAMES[measure]} rises with each doubling of the batch", rises, _list(means)))
        claims.append(_higher(n, r, names[-1], names[0], measure))
    return claims


def _variants(n: int, r: Results) -> list[Verdict]:
    claims = []
    for measure in MEASURES:
        difference = r.difference("plain", "L3", measure)
        differs = difference.above_zero or difference.below_zero
        outcome: Outcome = ("failed" if differs else "held") if difference.known else "undecided"
        claims.append(
            Verdict(n, f"plain and deformable attention do not differ in {NAMES[measure]}", outcome, f"difference {difference}")
        )
    claims.append(_alike(n, r, "fused token", "L3", "knn", CLOSE))
    claims.append(_lower(n, r, "fused token", "L3", "face_sim"))
    return claims


def _teachers(n: int, r: Results) -> list[Verdict]:
    clip, tower = r.shared.get("teachers/clip", {}), r.shared.get("teachers/face_tower", {})
    times = clip.get("leak", math.nan) / clip.get("leak_chance", math.nan)
    return [
        _at_most(n, "the CLIP finds held-out people at most ten times as often as chance", times, 10),
        _at_least(n, "the face tower's kNN identity is at least 0.9", tower.get("knn", math.nan), 0.9),
    ]


def _mean(r: Results, arm: str, measure: str) -> float:
    return r.estimate(arm, measure).mean


def _at_most(n: int, claim: str, value: float, bound: float) -> Verdict:
    return Verdict(n, claim, _decided([value], value <= bound), _list([value]))


def _at_least(n: int, claim: str, value: float, bound: float) -> Verdict:
    return Verdict(n, claim, _decided([value], value >= bound), _list([value]))


def _higher(n: int, r: Results, first: str, second: str, measure: str) -> Verdict:
    return _compare(n, r, (first, second), measure, "higher", lambda estimate: estimate.above_zero)


def _lower(n: int, r: Results, first: str, second: str, measure: str) -> Verdict:
    return _compare(n, r, (first, second), measure, "lower", lambda estimate: estimate.below_zero)


def _compare(n: int, r: Results, arms: tuple[str, str], measure: str, word: str, test: Callable) -> Verdict:
    """The interval of the paired difference excludes 0, on the right side."""
    difference = r.difference(*arms, measure)
    outcome: Outcome = ("held" if test(difference) else "failed") if difference.known else "undecided"
    return Verdict(n, f"{NAMES[measure]} of {arms[0]} is {word} than of {arms[1]}", outcome, f"difference {difference}")


def _alike(n: int, r: Results, first: str, second: str, measure: str, bound: float) -> Verdict:
    difference = r.difference(first, second, measure)
    outcome = _decided([difference.mean], abs(difference.mean) <= bound)
    return Verdict(n, f"{NAMES[measure]} of {first} and {second} lies within {bound}", outcome, f"difference {difference}")


def _decided(values: list[float], true: bool) -> Outcome:
    if any(math.isnan(value) for value in values):
        return "undecided"
    return "held" if true else "failed"


def _list(values: list[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)
