"""How long a plan takes: from CPU seconds per unit of work, measured on one thread of an AMD EPYC."""

from __future__ import annotations

from .groundwork import world_options
from .jobs import STAGES, Job
from .plan import Arm, Plan

OVERHEAD = 2.0
"""Seconds of any job around its steps."""
PORTRAIT = 0.067
PRETRAIN_ROW = 0.018
UNET_ROW = 0.0045
CONDITION = 0.005
"""A row through the encoder, once for each row of the data."""
JOINT_ROW = 0.02
TEMPLATE = 0.35
"""40 classes in one sentence through an encoder."""
SAMPLE = 0.012
"""One picture, one step of the sampler, with guidance."""
CACHED_ROW = 0.03
TEACHER_ROW = {"clip": 0.0054, "face_tower": 0.0077, "judge": 0.015, "judge_clip": 0.0065, "autoencoder": 0.071}


def seconds_of(job: Job, plan: Plan) -> float:
    """Estimated seconds of a job on one idle core."""
    return OVERHEAD + (_of_arm(job.arm, job.stage, plan) if job.arm else _shared(job, plan))


def estimate(jobs: list[Job], plan: Plan, processes: int) -> str:
    """One line per stage and one for all, with hours on so many idle cores."""
    lines = []
    total = 0.0
    for stage in STAGES:
        seconds = sum(seconds_of(job, plan) for job in jobs if job.stage == stage)
        count = sum(job.stage == stage for job in jobs)
        total += seconds
        lines.append(f"{stage:9} {count:4} jobs {seconds / processes / 60:7.1f} minutes")
    lines.append(f"{'all':9} {len(jobs):4} jobs {total / processes / 60:7.1f} minutes on {processes} idle cores, by estimate")
    return "\n".join(lines)


def _of_arm(arm: Arm, stage: str, plan: Plan) -> float:
    joint = arm.start == "joint"
    if stage == "pretrain":
        return PRETRAIN_ROW * plan.pretrain_steps * plan.pretrain_batch * arm.batch if arm.start == "pretrained" else 0.0
    if stage == "finetune":
        rows = plan.finetune_batch * (plan.finetune_steps if arm.world == "main" else plan.share_steps)
        return JOINT_ROW * rows if joint else UNET_ROW * rows + CONDITION * plan.people * plan.pictures
    pictures = plan.held_out_people * plan.pictures
    if stage == "measure":
        return TEMPLATE * plan.templates + CACHED_ROW * pictures
    return SAMPLE * plan.held_out_people * plan.scenes * plan.sampler_steps + CACHED_ROW * pictures


def _shared(job: Job, plan: Plan) -> float:
    if job.stage == "teachers":
        schedule = getattr(plan, job.what)
        return TEACHER_ROW[job.what] * schedule.steps * schedule.batch
    if job.stage == "base":
        return UNET_ROW * plan.base_steps * plan.finetune_batch
    if job.stage == "generate":
        return CACHED_ROW * plan.held_out_people * plan.pictures
    world = world_options(plan, job.what)
    if job.stage == "world":
        return PORTRAIT * world["pictures"] * (world["people"] + world["held-out-people"])
    return CACHED_ROW * world["pictures"] * world["people"]
