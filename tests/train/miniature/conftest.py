"""A proof so small that it says nothing: its worlds, teachers and caches, made once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from train.miniature.fitting import Schedule
from train.miniature.jobs import all_jobs, do
from train.miniature.plan import QUICK, Plan
from train.miniature.workshop import Workshop

FEW = Schedule(steps=2, batch=4)
TINY: Plan = replace(
    QUICK,
    name="tiny",
    people=4,
    pictures=7,
    held_out_people=2,
    guided=40,
    guided_held_out=40,
    judge_people=2,
    judge_pictures=4,
    judge_guided=40,
    share_people=2,
    share_held_out=2,
    clip=FEW,
    face_tower=FEW,
    judge=FEW,
    judge_clip=FEW,
    autoencoder=Schedule(steps=1, batch=2),
    decoder=Schedule(steps=1, batch=2),
    autoencoder_width=8,
    pretrain_steps=2,
    pretrain_batch=8,
    base_steps=2,
    finetune_steps=2,
    share_steps=2,
    finetune_batch=4,
    unet_widths=(8, 16),
    scenes=1,
    sampler_steps=2,
    templates=1,
    seeds=1,
    sweep_seeds=1,
)
GROUND = ("world/main", "world/judges", "teachers", "caches/main", "base")


Finish = Callable[..., list[str]]


@pytest.fixture(scope="session")
def finish() -> Finish:
    """`finish(shop, *patterns)` does the jobs that match, in this process, and returns which were done now."""

    def do_matching(shop: Workshop, *patterns: str) -> list[str]:
        return [job.name for job in do(shop, [job for job in all_jobs(shop.plan) if job.matches(patterns)], 1)]

    return do_matching


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory, finish: Finish) -> Workshop:
    """Worlds, teachers and caches of the tiny plan."""
    made = Workshop(tmp_path_factory.mktemp("proof"), TINY)
    finish(made, *GROUND)
    return made
