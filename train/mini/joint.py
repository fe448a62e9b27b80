"""Fusion modules and UNet learn together, at the end and at a low rate:
what a UNet cannot read, an encoder learns to write.

Not the paper's, whose encoder is frozen in stage 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from faceclip import FaceCLIPEncoder

from ..cache.features import FeatureCache
from ..data.shards import ShardSource
from ..finetune_sdxl.conditions import CachedIdentities
from ..finetune_sdxl.config import FinetuneConfig
from ..proof.arms.joint import LearningConditions
from ..proof.arms.training import READS, build_task, finish, last_values
from ..proof.workshop import Workshop
from ..run.ranks import distributed
from .carry import without_dropout

EMPHASIS = ((0, 3.0, 0.05), (1, 3.0, 0.05), (3, 1.0, 0.06), (4, 1.0, 0.06))
"""Of both eyes and the mouth's corners: which landmark, how much more its place weighs, how wide in sides."""


@dataclass(frozen=True)
class JointSettings:
    """How long, and how fast: a quarter of the UNet's rate."""

    steps: int = 3000
    batch: int = 32
    lr: float = 5e-4
    ema: float = 0.99


def train_joint(shop: Workshop, config: FinetuneConfig) -> dict[str, float]:
    """Train what `config` names, or go on with it: `unet/` and `encoder.safetensors` appear in its folder.

    Returns the last log.

    Raises ProofError where it is asked to stop.
    """
    assert config.features
    with distributed() as ranks:
        landmarks = landmarks_of(ShardSource(config.data, read=("meta",))) / shop.plan.world_size
        encoder = FaceCLIPEncoder.from_file(config.encoder).to(ranks.device)
        without_dropout(encoder)
        cache = FeatureCache(config.features, ShardSource(config.data, read=READS))
        conditions = LearningConditions(config, encoder, CachedIdentities(encoder, cache))
        task = build_task(
            shop, config, ranks, encoder.config, conditions, lambda rows: emphasis(landmarks[rows.index], config.resolution // 8)
        )
        finish(task, config, ranks)
    return last_values(config.out)


def landmarks_of(source: ShardSource) -> Tensor:
    """[N, 5, 2] in pixels, of drawn people."""
    return torch.tensor([source[row].meta["landmarks"] for row in range(len(source))])


def emphasis(landmarks: Tensor, cells: int) -> Tensor:
    """Landmarks [B, 5, 2] in sides -> weights [B, 1, cells, cells] of places, 1 on average.

    Eyes are a hundredth of a picture, and what people look at first.
    """
    middles = (torch.arange(cells) + 0.5) / cells
    places = torch.stack(torch.meshgrid(middles, middles, indexing="xy"), dim=-1)
    found = torch.ones(len(landmarks), cells, cells)
    for which, weight, reach in EMPHASIS:
        away = (places - landmarks[:, None, None, which]).square().sum(-1)
        found = found + weight * (-away / (2 * reach**2)).exp()
    return (found / found.mean((1, 2), keepdim=True))[:, None]


def joint_config(
    settings: JointSettings, out: Path, people: str, encoder: Path, unet: Path, latents: Path, features: Path, size: int
) -> FinetuneConfig:
    """From a finished encoder and UNet; conditions are dropped as before."""
    return FinetuneConfig(
        out=out,
        steps=settings.steps,
        batch_size=settings.batch,
        data=people,
        encoder=encoder,
        unet=unet,
        latents=latents,
        features=features,
        resolution=size,
        lr=settings.lr,
        warmup=max(1, settings.steps // 20),
        cooldown=settings.steps * 2 // 3,
        clip_grad=0.5,
        betas=(0.9, 0.99),
        ema=settings.ema,
        drop_text=0.0,
        drop_face=0.03,
        drop_both=0.05,
        prediction="v",
        zero_terminal_snr=True,
        workers=1,
        save_every=100,
        keep_last=40,
    )
