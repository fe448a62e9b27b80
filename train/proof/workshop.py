"""Where the proof keeps what it makes: worlds, teachers, caches, runs,
and one JSON file for everything that is finished."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from ..data.storage import publish
from .plan import Arm, Plan

CPU = torch.device("cpu")


class ProofError(ValueError):
    """The proof cannot go on: what is wrong and what to do."""


def stopped(run: Path) -> ProofError:
    """A training run that was asked to stop, and did."""
    return ProofError(f"{run} was stopped; the same command goes on from its checkpoint.")


@dataclass(frozen=True)
class Workshop:
    """A folder and the plan that it is filled by."""

    out: Path
    plan: Plan
    device: torch.device = CPU
    """Where teachers and judges learn. Training runs and generation take a GPU by themselves where there is one."""

    def claim(self) -> None:
        """Note the plan in the folder. Raises ProofError where another plan's results are."""
        path = self.out / "plan.json"
        plan = json.loads(json.dumps(asdict(self.plan)))
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            publish(str(path), json.dumps(plan, indent=1).encode())
            return
        found = json.loads(path.read_text())
        defaults = {field.name: field.default for field in fields(self.plan)}  # for plans from before a field was there
        before = {name: found.get(name, defaults[name]) for name in plan}
        changed = [f"{name} ({before[name]}, now {value})" for name, value in plan.items() if before[name] != value]
        # More seeds extend what is there; anything else would mix runs that do not compare.
        changed = [text for text in changed if not text.startswith(("seeds (", "sweep_seeds ("))]
        if changed:
            raise ProofError(f"{self.out} holds results of another plan: {', '.join(changed)}. Choose another --out.")

    def shards(self, world: str, part: str) -> Path:
        return self.out / "worlds" / world / part

    def cache(self, world: str, kind: str) -> Path:
        """`kind` is features, guided or latents."""
        return self.out / "caches" / world / kind

    def teacher(self, name: str) -> Path:
        """clip, face_tower, judge, judge_clip (files) or autoencoder (a folder)."""
        return self.out / "teachers" / (name if name == "autoencoder" else f"{name}.safetensors")

    @property
    def base(self) -> Path:
        """The run of the UNet that the main world's arms start from."""
        return self.out / "runs" / "base"

    def run(self, arm: Arm, seed: int, stage: str) -> Path:
        return self.out / "runs" / arm.slug / str(seed) / stage

    def result(self, job: str) -> Path:
        return self.out / "results" / f"{job}.json"

    def is_done(self, job: str) -> bool:
        return self.result(job).is_file()

    def write_result(self, job: str, values: Mapping[str, Any], seconds: float, cpu_seconds: float) -> None:
        """The file appears whole; a job without one is done again."""
        found = {
            "job": job,
            "plan": self.plan.name,
            "values": dict(values),
            "seconds": round(seconds, 1),
            "cpu_seconds": round(cpu_seconds, 1),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": machine(),
        }
        self.result(job).parent.mkdir(parents=True, exist_ok=True)
        publish(str(self.result(job)), json.dumps(found, indent=1).encode())


def machine() -> str:
    """What the numbers' seconds are seconds of."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{_processor()}, 1 thread, torch {torch.__version__}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
