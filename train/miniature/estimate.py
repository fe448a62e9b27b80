"""How long a plan takes: from CPU seconds per unit of work, measured on one thread of a loaded AMD EPYC and divided by three."""

from __future__ import annotations

from .jobs import STAGES, Job
from .plan import Arm, Plan

IDLE = 3.0
"""How many times slower the measurements' machine was, being shared by many."""
OVERHEAD = 2.0
"""Seconds of any job around its steps."""
PORTRAIT = 0.055
PRETRAIN_ROW = 0.034
FINETUNE_ROW = 0.020
JOINT_ROW = 0.053
TEMPLATE = 0.35
"""40 classes in one sentence through an encoder."""
SAMPLE = 0.012
"""One picture, one step of the sampler, with guidance."""
CACHED_ROW = 0.03
TEACHER_ROW = {"clip": 0.0096, "face_tower": 0.0092, "judge": 0.012, "judge_clip": 0.0096, "autoencoder": 0.092}


def seconds_of(job: Job, plan: Plan) -> float:
    """Estimated seconds of a job on one idle core."""
    return (OVERHEAD + (_of_arm(job.arm, job.stage, plan) if job.arm else _shared(job, plan))) / IDLE


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
        return (JOINT_ROW if joint else FINETUNE_ROW) * plan.finetune_steps * plan.finetune_batch
    pictures = plan.held_out_people * plan.pictures
    if stage == "measure":
        return TEMPLATE * plan.templates + CACHED_ROW * pictures
    return SAMPLE * plan.held_out_people * plan.scenes * plan.sampler_steps + CACHED_ROW * pictures


def _shared(job: Job, plan: Plan) -> float:
    people = {"main": plan.people, "judges": plan.judge_people}.get(job.what, plan.share_people)
    if job.stage == "world":
        held_out = 0 if job.what == "judges" else plan.held_out_people
        return PORTRAIT * plan.pictures * (people + held_out)
    if job.stage == "teachers":
        schedule = getattr(plan, job.what)
        return TEACHER_ROW[job.what] * schedule.steps * schedule.batch
    return CACHED_ROW * plan.pictures * people
