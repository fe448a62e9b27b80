"""Finetune SDXL's UNet on the joint condition.

By `python -m train.finetune_sdxl`, or under torchrun or `accelerate launch`.

    python -m train.finetune_sdxl --config sdxl_1024 --data SHARDS --encoder ENCODER --unet UNET --vae VAE \\
        --out RUN
    torchrun --standalone --nproc-per-node 8 -m train.finetune_sdxl ...
    accelerate launch --multi_gpu --num_processes 8 -m train.finetune_sdxl ...

On machines without a GPU accelerate wants --multi_gpu, too.

The same command goes on with an interrupted run. RUN/unet is the finished UNet in diffusers' format.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from faceclip import FaceCLIPEncoder
from faceclip.checkpoint import CheckpointError
from faceclip.sdxl_files import load_unet, require_fit, unet_config_beside, unet_prediction
from faceclip.unet_names import Prediction

from ..cache.features import FeatureCache
from ..cache.latents import LatentCache
from ..cache.row_store import CacheError
from ..data.batches import warn_of_few
from ..data.shards import Member, ShardSource
from ..frozen.towers import weights_digest
from ..frozen.vae import TinyVAE, load_vae
from ..run.config import DTYPES, ConfigError
from ..run.launch import train
from ..run.ranks import Ranks
from .conditions import (
    CachedIdentities,
    Conditions,
    IdentitySource,
    JointConditions,
    LiveIdentities,
    RememberedConditions,
)
from .config import FinetuneConfig
from .held_out import HeldOutLoss, held_out_by_person, spread
from .latents import CachedLatents, LatentSource, LiveLatents
from .looking import Look, find_judge, look_pipeline, people_among
from .reader import RowReader
from .task import FinetuneTask

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 when finished or stopped by SIGTERM, 1 for an error that it explains."""
    return train(FinetuneConfig, build, argv)


def build(config: FinetuneConfig, ranks: Ranks) -> FinetuneTask:
    """Everything that finetuning needs, from files. Raises ValueError (of many kinds) for what cannot be used."""
    dtype = DTYPES[config.dtype]
    source = ShardSource(config.data, read=_reads(config))
    held_out = held_out_by_person(source, config.held_out_share, ranks) if config.held_out_share else None
    encoder = FaceCLIPEncoder.from_file(config.encoder, ranks.device, dtype, dtype)
    if config.unet is None:
        raise ConfigError("There is no UNet to start from: name SDXL's with --unet, a diffusers folder or a file of its weights.")
    shape = config.unet_config or unet_config_beside(config.unet)
    read_by = shape if isinstance(shape, Path) else "SDXL base's configuration"
    advice = f"It was read by {read_by}: name the UNet's own config.json with --unet-config, or lay it beside the file."
    unet = load_unet(config.unet, shape, dtype, advice)
    config = with_prediction(config, unet_prediction(config.unet))
    _require_fit(encoder, unet)
    latents = _latents(config, ranks, source)
    identities: IdentitySource = LiveIdentities(encoder)
    features = FeatureCache(config.features, source) if config.features else None
    if features:
        identities = CachedIdentities(encoder, features)
    reader = RowReader(config, ranks, source, latents, faces=features is None, features=features, held_out=held_out)
    conditions: Conditions = JointConditions(encoder, identities)
    if config.remember_conditions:
        conditions = RememberedConditions(conditions, reader)
    task = FinetuneTask(config, ranks, unet, latents[0][1], reader, conditions)
    task.fingerprint = source.fingerprint
    if config.looks:
        task.look = _look(config, ranks, task, encoder, held_out)
    if ranks.is_main:
        logger.info("The UNet is trained to predict %s.", _told(Prediction(task.schedule.prediction, config.zero_terminal_snr)))
        warn_of_few(len(source), config.batch_size)
    return task


def _look(config: FinetuneConfig, ranks: Ranks, task: FinetuneTask, encoder: FaceCLIPEncoder, held_out: Any) -> Look:
    """What is looked at while the run goes on. Raises ConfigError, ShardError and CheckpointError."""
    dtype = DTYPES[config.dtype]
    source = ShardSource(config.held_out or config.data)
    candidates = range(len(source)) if held_out is None else held_out.nonzero()[0]
    samples = [source[row] for row in spread(candidates, config.held_out_rows)]
    people = people_among(samples, config.look_people)
    vae = load_vae(config.look_vae or config.vae or Path(), dtype)
    if ranks.is_main and isinstance(task.latents, CachedLatents) and task.latents.vae_digest != weights_digest(vae):
        logger.warning(
            "%s is not the VAE that made the cached latents. Looks are right only if it reads and makes the same latents, as a "
            "tiny one made for the same UNet does.",
            config.look_vae,
        )
    latents = LiveLatents(source, vae, config.resolution, ranks.device)
    loss = HeldOutLoss(samples, latents, JointConditions(encoder, LiveIdentities(encoder)), task.schedule, dtype)
    pipeline = look_pipeline(task.unet, vae.vae if isinstance(vae, TinyVAE) else vae, encoder, task.schedule, ranks.device)
    if ranks.is_main:
        what = f"{len(candidates):,} rows are held out, and never trained on" if config.held_out_share else "Rows of --held-out"
        logger.info("%s; the loss is measured on %d of them, and the grid has %d people.", what, len(samples), len(people))
    return Look(config, ranks, pipeline, people, loss, find_judge(config, ranks))


def with_prediction(config: FinetuneConfig, found: Prediction | None) -> FinetuneConfig:
    """The configuration with what the UNet's file says that it predicts, as far as it was left open.

    Raises ConfigError where it says another than the configuration: the
    first steps would only unlearn the old one.
    """
    if config.prediction == "auto":
        taken = found or Prediction("epsilon")
        return replace(config, prediction=taken.kind, zero_terminal_snr=taken.zero_terminal_snr)
    asked_for = Prediction(config.prediction, config.zero_terminal_snr)
    if found not in (None, asked_for):
        raise ConfigError(
            f"{config.unet} says that its UNet predicts {_told(found)}, and the run is to train it on {_told(asked_for)}. "
            f"Give --prediction {found.kind} --{'' if found.zero_terminal_snr else 'no-'}zero-terminal-snr, or another UNet."
        )
    return config


def _told(prediction: Prediction) -> str:
    kind = "v" if prediction.kind == "v" else "the noise (epsilon)"
    return f"{kind} with zero terminal SNR" if prediction.zero_terminal_snr else kind


def _require_fit(encoder: FaceCLIPEncoder, unet: Any) -> None:
    try:
        require_fit(encoder, unet)
    except CheckpointError as error:
        advice = "SDXL needs both branches: join an encoder of `l` and one of `g` with `python -m train.join`."
        raise CheckpointError(f"{error} {advice}") from None


def _reads(config: FinetuneConfig) -> tuple[Member, ...]:
    """The members of a sample that are not replaced by cached features."""
    image: tuple[Member, ...] = () if config.latents else ("image",)
    face: tuple[Member, ...] = () if config.features else ("face",)
    return (*image, *face, "caption", "meta")


def _latents(config: FinetuneConfig, ranks: Ranks, source: ShardSource) -> list[tuple[int, LatentSource]]:
    """Where each phase's latents come from, with the step that it begins at; by one VAE. Raises CacheError for
    several."""
    if config.vae:
        vae = load_vae(config.vae, DTYPES[config.dtype])
        sides = {phase.resolution: LiveLatents(source, vae, phase.resolution, ranks.device) for phase in config.stretches}
        return [(phase.first, sides[phase.resolution]) for phase in config.stretches]
    phases = [(phase.first, phase.resolution, phase.latents) for phase in config.stretches if phase.latents]
    caches = {path: LatentCache(path, source) for _, _, path in phases}
    for _, resolution, path in phases:
        _require_resolution(caches[path], resolution)
    first = next(iter(caches))
    for path, cache in caches.items():
        if cache.vae != caches[first].vae:
            raise CacheError(
                f"The phases' latents in {first} and {path} were cached with different VAEs. Cache those that are not of the "
                "UNet's VAE again, with it."
            )
    cached = {path: CachedLatents(cache) for path, cache in caches.items()}
    return [(begins, cached[path]) for begins, _, path in phases]


def _require_resolution(cache: LatentCache, resolution: int) -> None:
    """Raise CacheError unless the cache's buckets are those of the resolution, of whatever steps."""
    side = math.isqrt(max(height * width for height, width in cache.buckets))
    if side != resolution:
        raise CacheError(
            f"The cached latents were made for --resolution {side}, the run's is {resolution}. Give --resolution {side}, or "
            f"cache them again: python -m train.cache latents --resolution {resolution} ..."
        )
