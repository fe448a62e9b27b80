"""Both stages of an arm: `train.pretrain` and `train.finetune_sdxl`, on
caches and with the arm's own encoder and UNet."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from faceclip import FaceCLIPConfig, FaceCLIPEncoder

from ...cache.features import FeatureCache
from ...cache.latents import LatentCache
from ...data.shards import ShardSource
from ...finetune_sdxl.conditions import CachedIdentities, Conditions, JointConditions, RememberedConditions
from ...finetune_sdxl.config import FinetuneConfig
from ...finetune_sdxl.latents import CachedLatents
from ...finetune_sdxl.reader import RowReader
from ...finetune_sdxl.rows import Rows
from ...finetune_sdxl.task import FinetuneTask
from ...pretrain.command import build
from ...pretrain.config import PretrainConfig
from ...pretrain.task import PretrainTask
from ...run.config import DTYPES, RunConfig
from ...run.loop import Task, run
from ...run.ranks import Ranks, distributed
from ..plan import BRANCH, Arm
from ..workshop import Workshop, stopped
from .joint import LearningConditions
from .variants import load_variant, new_unet, starting_encoder

READS = ("caption", "meta")  # all else is in the caches


def pretrain(shop: Workshop, arm: Arm, seed: int) -> dict[str, float]:
    """Run or resume an arm's pretraining.

    An untrained arm, and one that learns with the UNet, only get their encoder.
    """
    config = pretrain_config(shop, arm, seed)
    with distributed() as ranks:
        if arm.start != "pretrained":
            encoder = starting_encoder(config, arm.variant)
            encoder.save(config.out / "encoder.safetensors", {"trained": "false"})
            return {}
        finish(build_pretraining(config, ranks, arm), config, ranks)
    return last_values(config.out)


def finetune(shop: Workshop, arm: Arm, seed: int) -> dict[str, float]:
    """Run or resume the training of an arm's UNet."""
    config = finetune_config(shop, arm, seed)
    with distributed() as ranks:
        finish(build_finetuning(shop, config, ranks, arm), config, ranks)
    return last_values(config.out)


def pretrain_config(shop: Workshop, arm: Arm, seed: int) -> PretrainConfig:
    plan = shop.plan
    guided = arm.guided_fraction > 0
    return PretrainConfig(
        out=shop.run(arm, seed, "pretrain"),
        steps=plan.pretrain_steps,
        batch_size=int(plan.pretrain_batch * arm.batch),
        data=str(shop.shards(arm.world, "train")),
        guided=str(shop.shards("main", "guided")) if guided else "",
        guided_fraction=arm.guided_fraction,
        branch=BRANCH,
        size="mini",
        init_clip=str(shop.teacher("clip")),
        init_face=shop.teacher("face_tower"),
        teacher="mini",
        features=shop.cache(arm.world, "features"),
        guided_features=shop.cache("main", "guided") if guided else None,
        terms=arm.terms,
        seed=seed,
        dropout=0.0,
        lr=plan.pretrain_lr,
        warmup=max(1, plan.pretrain_steps // 20),
        workers=1,
        save_every=plan.save_every,
        keep_last=1,
    )


def finetune_config(shop: Workshop, arm: Arm, seed: int) -> FinetuneConfig:
    """How an arm's UNet is trained: from the base, or, in the worlds that have none, from nothing and for longer."""
    plan = shop.plan
    encoder = shop.run(arm, seed, "pretrain") / "encoder.safetensors"
    if arm.world != "main":
        config = unet_config(shop, arm.world, shop.run(arm, seed, "finetune"), encoder, plan.share_steps)
        return replace(config, seed=seed)
    config = unet_config(shop, arm.world, shop.run(arm, seed, "finetune"), encoder, plan.finetune_steps)
    return replace(config, seed=seed, unet=shop.base / "unet", **dropped_together(config))


def dropped_together(config: FinetuneConfig) -> dict[str, float]:
    """Text and face dropped as often as otherwise, but never alone, so that
    remembered conditions are of one kind, not three."""
    return {"drop_text": 0.0, "drop_face": 0.0, "drop_both": config.drop_text + config.drop_both}


def unet_config(shop: Workshop, world: str, out: Path, encoder: Path, steps: int) -> FinetuneConfig:
    """What the training of all UNets shares; they start from nothing."""
    plan = shop.plan
    return FinetuneConfig(
        out=out,
        steps=steps,
        batch_size=plan.finetune_batch,
        data=str(shop.shards(world, "train")),
        encoder=encoder,
        unet=None,
        latents=shop.cache(world, "latents"),
        features=shop.cache(world, "features"),
        resolution=plan.size,
        lr=plan.finetune_lr,
        warmup=max(1, steps // 20),
        ema=plan.ema,
        prediction="v",
        zero_terminal_snr=True,
        remember_conditions=True,
        cuda_graph=torch.cuda.is_available(),
        workers=1,
        save_every=plan.save_every,
        keep_last=1,
    )


def build_pretraining(config: PretrainConfig, ranks: Ranks, arm: Arm) -> PretrainTask:
    """What `train.pretrain.command.build` makes of the same configuration, around the arm's own encoder."""
    return build(config, ranks, starting_encoder(config, arm.variant))


def build_finetuning(shop: Workshop, config: FinetuneConfig, ranks: Ranks, arm: Arm) -> FinetuneTask:
    """What `train.finetune_sdxl.command.build` makes, with a small UNet; for `joint` the encoder learns too."""
    encoder = load_variant(config.encoder, arm.variant).to(ranks.device)
    assert config.features
    identities = CachedIdentities(encoder, FeatureCache(config.features, ShardSource(config.data, read=READS)))
    joint = arm.start == "joint"
    conditions = LearningConditions(config, encoder, identities) if joint else JointConditions(encoder, identities)
    return build_task(shop, config, ranks, encoder.config, conditions)


def build_task(
    shop: Workshop,
    config: FinetuneConfig,
    ranks: Ranks,
    encoder: FaceCLIPConfig,
    conditions: Conditions,
    emphasis: Callable[[Rows], Tensor] | None = None,
) -> FinetuneTask:
    """A task on the cached latents that `config` names, with the UNet that it names or an untrained one.

    Conditions that stay as they are get remembered.
    """
    source = ShardSource(config.data, read=READS)
    assert config.latents
    latents = CachedLatents(LatentCache(config.latents, source))
    reader = RowReader(config, ranks, source, latents, faces=False)
    if config.remember_conditions and not conditions.learns:
        conditions = RememberedConditions(conditions, reader)
    return FinetuneTask(config, ranks, _starting_unet(shop, config, encoder), latents, reader, conditions, emphasis)


def _starting_unet(shop: Workshop, config: FinetuneConfig, encoder: FaceCLIPConfig) -> Any:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    if config.unet is None:
        return new_unet(encoder, shop.plan.unet_widths, shop.plan.size // 8, config.seed)
    return UNet2DConditionModel.from_pretrained(config.unet, torch_dtype=DTYPES[config.dtype])


def trained_encoder(shop: Workshop, arm: Arm, seed: int) -> FaceCLIPEncoder:
    """The encoder that an arm ends with: finetuning's where it was trained there."""
    stage = "finetune" if arm.start == "joint" else "pretrain"
    return load_variant(shop.run(arm, seed, stage) / "encoder.safetensors", arm.variant)


def last_values(out: Path) -> dict[str, float]:
    """The last line of a run's log."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    return {name: value for name, value in steps[-1].items() if isinstance(value, int | float)} if steps else {}


def finish(task: Task, config: RunConfig, ranks: Ranks) -> None:
    """Run a task to its end. Raises ProofError where it is asked to stop."""
    if not run(task, config, ranks):
        raise stopped(config.out)
