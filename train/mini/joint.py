"""Fusion modules and UNet learn together, at the end and at a low rate:
what a UNet cannot read, an encoder learns to write.

Not the paper's, whose encoder is frozen in stage 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class JointSettings:
    """How long, and how fast: a tenth of the UNet's rate."""

    steps: int = 1000
    batch: int = 32
    lr: float = 2e-4
    ema: float = 0.99


def train_joint(shop: Workshop, config: FinetuneConfig) -> dict[str, float]:
    """Train what `config` names, or go on with it: `unet/` and `encoder.safetensors` appear in its folder.

    Returns the last log.

    Raises ProofError where it is asked to stop.
    """
    assert config.features
    with distributed() as ranks:
        encoder = FaceCLIPEncoder.from_file(config.encoder).to(ranks.device)
        without_dropout(encoder)
        cache = FeatureCache(config.features, ShardSource(config.data, read=READS))
        conditions = LearningConditions(config, encoder, CachedIdentities(encoder, cache))
        finish(build_task(shop, config, ranks, encoder.config, conditions), config, ranks)
    return last_values(config.out)


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
        keep_last=1,
    )
