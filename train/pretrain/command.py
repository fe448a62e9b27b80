"""Pretrain FaceCLIP.

By `python -m train.pretrain`, `torchrun ... -m train.pretrain`, or `accelerate launch -m train.pretrain`.

    python -m train.pretrain --config faceclip_l --data SHARDS --init-clip CLIP --init-face ARCFACE --out RUN
    torchrun --standalone --nproc-per-node 8 -m train.pretrain ...
    accelerate launch --multi_gpu --num_processes 8 -m train.pretrain ...

On machines without a GPU accelerate wants --multi_gpu, too.

The same command goes on with an interrupted run.
RUN/encoder.safetensors is the finished encoder of one branch.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from faceclip import FaceCLIPEncoder

from ..cache.features import FeatureCache
from ..data.batches import ReadOptions, TrainingData, warn_of_few
from ..data.decode import DecodeSample
from ..data.shards import MEMBERS, Member, ShardSource
from ..frozen.starts import FULL_SIZE, named_starts, told_starts
from ..frozen.teacher import load_teacher
from ..frozen.towers import new_encoder
from ..run.config import DTYPES, ConfigError
from ..run.launch import train
from ..run.ranks import Ranks
from .config import PretrainConfig
from .features import CachedFeatures, FeatureSource, LiveFeatures
from .held_out import HeldOut
from .task import PretrainTask

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 when finished or stopped by SIGTERM, 1 for an error that it explains."""
    return train(PretrainConfig, build, argv)


def build(config: PretrainConfig, ranks: Ranks, encoder: FaceCLIPEncoder | None = None) -> PretrainTask:
    """Everything that pretraining needs, from files, around `encoder` or
    else the one that the configuration starts from.

    Raises ValueError (of many kinds) for what cannot be used.
    """
    config = _effective(config, starts_from_files=encoder is None)
    encoder = encoder or new_encoder(config, config.dropout)
    reads = _reads(config)
    source = ShardSource(config.data, read=reads)
    guided = ShardSource(config.guided, read=reads) if config.guided else None
    features, transform = _features(config, encoder, ranks, source, guided)
    data = TrainingData(
        main=source,
        guided=guided,
        guided_fraction=config.guided_fraction,
        batch_size=config.batch_size,
        seed=config.seed,
        rank=ranks.rank,
        world_size=ranks.world_size,
        transform=transform,
        reading=ReadOptions(config.workers, config.reader_processes, pin=ranks.device.type == "cuda"),
        beside=features.read if isinstance(features, CachedFeatures) else None,
        tolerate=config.tolerate,
    )
    data.follow(config.course)
    task = PretrainTask(config, ranks, encoder, data, features, _held_out(config, encoder, ranks, features, transform))
    task.fingerprint = source.fingerprint + (guided.fingerprint if guided else "")
    if ranks.is_main:
        logger.info("%s Guided rows: %s.", told_starts(config), _told_guided(config))
        warn_of_few(len(source), config.batch_size)
    return task


def _effective(config: PretrainConfig, starts_from_files: bool) -> PretrainConfig:
    """What the run does, as config.yaml will tell it.

    Raises ConfigError or InitError for what nobody can have meant.
    """
    if starts_from_files:
        config = named_starts(config)
    if config.guided or not config.guided_fraction:
        return config
    if config.size == FULL_SIZE:
        raise ConfigError(
            f"There are no guided rows: guided_fraction is {config.guided_fraction:g}, and --guided names no shards. Without "
            "them the encoder unlearns words (docs/proof.md). Name image-text shards with --guided, or ask for none: "
            "--guided-fraction 0."
        )
    return replace(config, guided_fraction=0.0)


def _told_guided(config: PretrainConfig) -> str:
    return f"{config.guided_fraction:g} of the batch (lambda), from {config.guided}" if config.guided else "none (lambda is 0)"


def _reads(config: PretrainConfig) -> tuple[Member, ...]:
    """The members of a sample that are not replaced by cached features; the photograph is the live teacher's alone."""
    if not config.features:
        return MEMBERS
    return ("caption", "meta") if _caches_faces(config) else ("face", "caption", "meta")


def _caches_faces(config: PretrainConfig) -> bool:
    return bool(config.features) and (config.features / "patch_tokens.npy").is_file()


def _features(
    config: PretrainConfig, encoder: FaceCLIPEncoder, ranks: Ranks, source: ShardSource, guided: ShardSource | None
) -> tuple[FeatureSource, DecodeSample]:
    """From the cache if there is one, else by the towers themselves; and what has to be decoded for it."""
    if config.features is None:
        return _live(config, encoder, ranks)
    main = FeatureCache(config.features, source)
    pairs = FeatureCache(config.guided_features, guided) if config.guided_features and guided else None
    cached = CachedFeatures(encoder, main, pairs, config.teacher, config.clip_file)
    return cached, DecodeSample(faces=not cached.has_faces)


def _live(config: PretrainConfig, encoder: FaceCLIPEncoder, ranks: Ranks) -> tuple[LiveFeatures, DecodeSample]:
    teacher = load_teacher(config.teacher, config.clip_file, encoder.config.width).to(ranks.device, DTYPES[config.dtype])
    return LiveFeatures(encoder, teacher), DecodeSample(teacher.size)


def _held_out(
    config: PretrainConfig, encoder: FaceCLIPEncoder, ranks: Ranks, features: FeatureSource, transform: DecodeSample
) -> HeldOut | None:
    """Measurements on every rank, by the towers that train; beside a cache they are loaded for it."""
    if not config.held_out:
        return None
    if not isinstance(features, LiveFeatures):
        if not config.teacher:
            raise ConfigError("Measuring on held-out shards needs the image teacher: name it with --teacher.")
        features, transform = _live(config, encoder, ranks)
    rows = config.micro_batch or config.batch_size // ranks.world_size
    return HeldOut(ShardSource(config.held_out), transform, features, rows)
