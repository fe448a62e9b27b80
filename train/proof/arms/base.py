"""The UNet that every arm of the main world starts from: what SDXL is to
the paper, trained on CLIP's text alone."""

from __future__ import annotations

from dataclasses import replace

import torch

from faceclip import FaceCLIPEncoder

from ...data.captions import token_ids
from ...finetune_sdxl.conditions import Condition, Conditions, kept_captions
from ...finetune_sdxl.rows import Rows
from ...run.ranks import distributed
from ..plan import Arm
from ..workshop import Workshop
from .training import build_task, dropped_together, finish, last_values, pretrain_config, unet_config
from .variants import starting_encoder


class TextConditions(Conditions):
    """What the branch's CLIP makes of the caption, before any fusion: its last hidden states, and pooled."""

    def __init__(self, encoder: FaceCLIPEncoder):
        self.encoder = encoder

    @torch.no_grad()
    def __call__(self, rows: Rows) -> Condition:
        captions = kept_captions(rows)
        ids = token_ids(captions, [False] * len(captions)).to(self.encoder.device)
        (clip,) = self.encoder.branches.values()
        hidden = clip.encode_tokens(clip.token_embedding(ids))
        return hidden, clip.pool(hidden, ids)


def train_base(shop: Workshop) -> dict[str, float]:
    """Run or resume its training: one UNet for all arms and seeds, on the people that all arms learn from."""
    arm, plan = Arm("base"), shop.plan
    config = unet_config(shop, arm.world, shop.base, shop.base / "clip.safetensors", plan.base_steps)
    config = replace(config, cooldown=plan.base_steps // 4, **dropped_together(config))
    with distributed() as ranks:
        encoder = starting_encoder(pretrain_config(shop, arm, 0), arm.variant).eval().requires_grad_(False)
        encoder.save(config.encoder, {"trained": "false"})
        conditions = TextConditions(encoder.to(ranks.device))
        finish(build_task(shop, config, ranks, encoder.config, conditions), config, ranks)
    return last_values(config.out)
