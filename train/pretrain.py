"""Pretrain FaceCLIP: `python -m train.pretrain`, or `torchrun ... -m train.pretrain`, or `accelerate launch -m train.pretrain`.

    python -m train.pretrain --config faceclip_l --data SHARDS --init-clip CLIP --init-face ARCFACE --out RUN

The same command goes on with an interrupted run. RUN/encoder.safetensors is the finished encoder of one branch.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from faceclip import FaceCLIPEncoder

from .checkpointing import CheckpointWriteError
from .config import PretrainConfig, parse
from .data import ReadOptions, TrainingData
from .distributed import Ranks, distributed
from .evaluate import HeldOut
from .initialise import new_encoder
from .loop import NonFiniteLossError, run
from .pretrain_data import FeatureSource, LiveFeatures
from .pretrain_step import PretrainTask
from .shards import ShardSource
from .teacher import load_teacher
from .transforms import DecodeSample


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 when finished or stopped by SIGTERM, 1 for an error that it explains."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    try:
        config = parse(PretrainConfig, argv)
        with distributed() as ranks:
            run(build(config, ranks), config, ranks)
    except (ValueError, CheckpointWriteError, NonFiniteLossError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


def build(config: PretrainConfig, ranks: Ranks) -> PretrainTask:
    """Everything that pretraining needs, from files. Raises ValueError (of many kinds) for what cannot be used."""
    encoder = new_encoder(config)
    features, transform = _features(config, encoder, ranks)
    data = TrainingData(
        main=ShardSource(config.data),
        guided=ShardSource(config.guided) if config.guided else None,
        guided_fraction=config.guided_fraction if config.guided else 0.0,
        batch_size=config.batch_size,
        seed=config.seed,
        rank=ranks.rank,
        world=ranks.world,
        transform=transform,
        reading=ReadOptions(threads=config.workers),
    )
    return PretrainTask(config, ranks, encoder, data, features, _held_out(config, encoder, ranks, features, transform))


def _features(config: PretrainConfig, encoder: FaceCLIPEncoder, ranks: Ranks) -> tuple[FeatureSource, DecodeSample]:
    teacher = load_teacher(config.teacher, config.init_clip, encoder.config.width).to(ranks.device)
    return LiveFeatures(encoder, teacher), DecodeSample(teacher.size)


def _held_out(
    config: PretrainConfig, encoder: FaceCLIPEncoder, ranks: Ranks, features: FeatureSource, transform: DecodeSample
) -> HeldOut | None:
    if not config.held_out:
        return None
    return HeldOut(ShardSource(config.held_out), transform, features, config.micro_batch or config.batch_size // ranks.world)


if __name__ == "__main__":
    sys.exit(main())
