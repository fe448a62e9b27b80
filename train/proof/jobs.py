"""The proof as a list of jobs, each of which leaves one result; what is there is not done again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..data.workers import run
from .arms.base import train_base
from .arms.generation import generate, measure_bounds
from .arms.measures import measure_encoder
from .arms.training import finetune, pretrain
from .groundwork import TEACHERS, WORLDS, make_caches, make_teacher, make_world
from .plan import SHARES, Arm, Plan, arms, share_world
from .workshop import Workshop

STAGES = ("world", "teachers", "caches", "base", "pretrain", "finetune", "measure", "generate")
_OF_AN_ARM: dict[str, Callable[[Workshop, Arm, int], dict[str, Any]]] = {
    "pretrain": pretrain,
    "finetune": finetune,
    "measure": measure_encoder,
    "generate": generate,
}


@dataclass(frozen=True)
class Job:
    """`name` is STAGE/WHAT, or STAGE/ARM/SEED for the stages that arms go through."""

    stage: str
    what: str
    arm: Arm | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.stage}/{self.what}/{self.seed}" if self.arm else f"{self.stage}/{self.what}"

    def matches(self, patterns: Sequence[str]) -> bool:
        """Whether it is one of those asked for: by stage, by stage and arm, or whole."""
        parts = self.name.split("/")
        return not patterns or any(parts[: len(wanted)] == wanted for wanted in (p.lower().split("/") for p in patterns))


def all_jobs(plan: Plan) -> list[Job]:
    """Every job of a plan, in an order in which each finds what it needs."""
    shared = {
        "world": [Job("world", world) for world in WORLDS],
        "teachers": [Job("teachers", name) for name in TEACHERS],
        "caches": [Job("caches", world) for world in ("main", *(share_world(share) for share in SHARES))],
        "base": [Job("base", "unet")],
        "generate": [Job("generate", "bounds")],
    }
    jobs = []
    for stage in STAGES:
        jobs += shared.get(stage, [])
        jobs += [Job(stage, arm.slug, arm, seed) for arm in arms() for seed in plan.seeds_of(arm) if _takes_part(stage, arm)]
    return jobs


def do(shop: Workshop, jobs: Sequence[Job], processes: int) -> Iterator[Job]:
    """Do what is missing of some jobs, stage by stage, several of a stage side by side.

    Yields each as it is finished.

    Raises ProofError and EngineError; what was finished before stays, and
    a training run goes on from its checkpoint.
    """
    shop.claim()
    for stage in STAGES:
        todo = [job for job in jobs if job.stage == stage and not shop.is_done(job.name)]
        if todo:
            # One world at a time is drawn by all processes; other jobs take one each.
            yield from run("processes", _Work(shop, processes), todo, 1 if stage == "world" else min(processes, len(todo)))


@dataclass(frozen=True)
class _Work:
    """Does one job. Sent to the worker processes."""

    shop: Workshop
    processes: int = 1
    """That a job may use, where it can use several."""

    def __call__(self, job: Job) -> Job:
        torch.set_num_threads(1)
        start, cpu = time.perf_counter(), time.process_time()
        values = _do(self.shop, job, self.processes)
        self.shop.write_result(job.name, values, time.perf_counter() - start, time.process_time() - cpu)
        return job


def _do(shop: Workshop, job: Job, processes: int) -> dict[str, Any]:
    if job.arm:
        return _OF_AN_ARM[job.stage](shop, job.arm, job.seed)
    if job.stage == "generate":
        return measure_bounds(shop)
    if job.stage == "base":
        return train_base(shop)
    if job.stage == "world":
        return make_world(shop, job.what, processes)
    if job.stage == "caches":
        return make_caches(shop, job.what, max(1, processes // 4))  # most of it is decoding, and the main world's takes longest
    return make_teacher(shop, job.what)


def _takes_part(stage: str, arm: Arm) -> bool:
    shown = arm.finetuned and arm.world == "main"  # people of other worlds are no people of the judge's
    wanted = {
        "pretrain": True,
        "measure": True,
        "finetune": arm.finetuned,
        "generate": shown,
    }
    return wanted.get(stage, False)
