"""The proof's numbers: per arm, measure and seed, with t-intervals over seeds and paired differences."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...data.storage import publish
from ..plan import Arm, arms
from ..workshop import ProofError, Workshop

MEASURES = ("zero_shot", "knn", "face_sim", "clip_t")
IDENTITY = ("knn", "knn_one_caption", "knn_probe")
"""Ways to look for identity in the joint representation; only the first is predicted."""
NAMES = {
    "zero_shot": "zero-shot",
    "knn": "kNN identity",
    "face_sim": "Face Sim",
    "clip_t": "CLIP-T",
    "knn_one_caption": "kNN, one caption for all",
    "knn_probe": "kNN after a linear map",
}
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its 95 % t-interval, which one seed does not give: then `low` and `high` are NaN."""

    mean: float
    low: float
    high: float
    seeds: int

    @staticmethod
    def of(values: Sequence[float]) -> Estimate:
        from scipy import stats

        data = np.asarray(values, dtype=np.float64)
        if len(data) < 2:
            return Estimate(float(data.mean()) if len(data) else math.nan, math.nan, math.nan, len(data))
        half = float(stats.t.ppf((1 + LEVEL) / 2, len(data) - 1) * data.std(ddof=1) / math.sqrt(len(data)))
        mean = float(data.mean())
        return Estimate(mean, mean - half, mean + half, len(data))

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return not math.isnan(self.low)

    @property
    def above_zero(self) -> bool:
        return self.known and self.low > 0

    @property
    def below_zero(self) -> bool:
        return self.known and self.high < 0

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "-"
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]" if self.known else f"{self.mean:.3f}"


@dataclass(frozen=True)
class Results:
    """values: arm -> measure -> seed -> number. shared: what belongs to no arm, by "teachers/clip" and the like."""

    values: dict[str, dict[str, dict[int, float]]]
    shared: dict[str, dict[str, float]]

    def estimate(self, arm: str, measure: str) -> Estimate:
        return Estimate.of(list(self._seeds(arm, measure).values()))

    def difference(self, first: str, second: str, measure: str) -> Estimate:
        """first - second, paired by seed."""
        a, b = self._seeds(first, measure), self._seeds(second, measure)
        return Estimate.of([a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())])

    def _seeds(self, arm: str, measure: str) -> dict[int, float]:
        return self.values.get(arm, {}).get(measure, {})


def collect(shop: Workshop) -> Results:
    """All that is finished in a folder.

    Face Sim and CLIP-T are put in relation to real pictures, as docs/proof.md defines.
    """
    shared = {name: found for name in _SHARED if (found := _read(shop, name))}
    values: dict[str, dict[str, dict[int, float]]] = {}
    for arm in arms():
        for seed in shop.plan.seeds_of(arm):
            for measure, value in _of_arm(shop, arm, seed, shared.get("generate/bounds", {})).items():
                values.setdefault(arm.name, {}).setdefault(measure, {})[seed] = value
    return Results(values, shared)


def seconds(shop: Workshop) -> dict[tuple[str, str], dict[str, float]]:
    """Per stage and machine: finished jobs, their seconds and CPU seconds."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for result in all_results(shop):
        key = (result["job"].split("/")[0], result["machine"])
        stage = found.setdefault(key, {"jobs": 0, "seconds": 0.0, "cpu_seconds": 0.0})
        stage["jobs"] += 1
        stage["seconds"] += result["seconds"]
        stage["cpu_seconds"] += result["cpu_seconds"]
    return found


def all_results(shop: Workshop) -> list[dict[str, Any]]:
    """What every finished job noted, by the jobs' names."""
    return [json.loads(path.read_text()) for path in sorted((shop.out / "results").rglob("*.json"))]


def restore(shop: Workshop, file: Path) -> None:
    """Put the results of a report (`results.json`) where those of a run would be; what is there stays.

    Raises ProofError.
    """
    try:
        results = json.loads(file.read_text())
    except OSError as error:
        raise ProofError(f"The results cannot be read: {error}") from error
    for result in results:
        if result["plan"] != shop.plan.name:
            raise ProofError(f"{file} has results of the {result['plan']} plan, not of the {shop.plan.name} plan.")
        path = shop.result(result["job"])
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            publish(str(path), json.dumps(result, indent=1).encode())


def relative(value: float, shuffled: float, real: float, real_shuffled: float) -> float:
    """Face Sim: 0 where a picture resembles its person no more than others, 1 where it does as real pictures do."""
    return (value - shuffled) / (real - real_shuffled)


_SHARED = (
    "teachers/clip",
    "teachers/face_tower",
    "teachers/judge",
    "teachers/judge_clip",
    "teachers/autoencoder",
    "generate/bounds",
)


def _of_arm(shop: Workshop, arm: Arm, seed: int, bounds: dict[str, float]) -> dict[str, float]:
    encoder = _read(shop, f"measure/{arm.slug}/{seed}")
    pictures = _read(shop, f"generate/{arm.slug}/{seed}")
    found = dict(encoder)
    if pictures and bounds:
        found |= {f"raw_{name}": value for name, value in pictures.items()}
        found["face_sim"] = relative(pictures["face"], pictures["shuffled"], bounds["real_face"], bounds["real_shuffled"])
        found["clip_t"] = pictures["clip_t"] / bounds["real_clip_t"]
    return found


def _read(shop: Workshop, job: str) -> dict[str, Any]:
    path = shop.result(job)
    return json.loads(path.read_text())["values"] if path.is_file() else {}
