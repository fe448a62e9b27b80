"""A proof so small that it says nothing."""

from __future__ import annotations

from dataclasses import replace

from train.proof.fitting import Schedule
from train.proof.plan import QUICK, Plan

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
