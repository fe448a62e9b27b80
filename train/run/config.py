"""Configurations: dataclasses, filled from a preset
(`train/configs/*.yaml`) or a YAML file, then from the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class ConfigError(ValueError):
    """A configuration that cannot be used: what is wrong, what was found, what to do."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What both stages share: where the run lives, how long it is, how it steps, what it writes."""

    command: ClassVar[str]

    out: Path
    """Folder of the run: checkpoints, log.jsonl, config.yaml and the finished weights. A run found there is resumed."""
    steps: int
    """Optimiser steps in all, those of an interrupted run included."""
    batch_size: int
    """Global batch: rows per optimiser step over all ranks, a multiple of their number."""
    micro_batch: int = 0
    """Rows that a rank puts through the models at once, frozen ones included; 0 is
    all of its share. Smaller needs less memory, same gradient."""
    seed: int = 0
    """Everything random follows from it and the step: data order, dropout, noise, condition dropout."""
    lr: float = 2e-5
    """Learning rate after warm-up (paper: 2e-5)."""
    warmup: int = 0
    """Steps over which the learning rate rises from zero. The paper names none."""
    cooldown: int = 0
    """Last steps, over which the learning rate falls towards zero in a line. The paper names none. They count from
    `steps`: a run that is to be made longer should not have reached them."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of first and second moment (paper: 0.9, 0.999)."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay (paper: 0.01)."""
    clip_grad: float = 1.0
    """Largest norm of the gradient; 0 never clips. The paper names none."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Precision of weights and activations. bf16 (the paper's) trains with Kahan AdamW, second moment in fp32."""
    shard_optimizer: bool = True
    """Deal the optimiser's state and the moving average out to the ranks (ZeRO-1) instead of keeping all of it on
    each: same bits, less memory. Costs one broadcast of the weights per step. Nothing to one rank."""
    activation_checkpointing: bool = False
    """Recompute blocks in backward instead of keeping their activations."""
    compile: bool = False
    """Compile the model with torch.compile."""
    workers: int = 2
    """Threads per rank, in its own process, that read and decode samples ahead; no processes are started."""
    save_every: int = 1000
    """Steps between checkpoints."""
    keep_last: int = 3
    """Checkpoints to keep; older ones are deleted once a newer one is whole."""
    log_every: int = 10
    """Steps between lines of log.jsonl."""
    tensorboard: bool = False
    """Also write TensorBoard event files below the run's folder."""
    wandb: str = ""
    """Weights & Biases project to log to as well; empty for none."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "save_every", "keep_last", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if min(self.micro_batch, self.warmup, self.cooldown) < 0 or self.lr <= 0:
            raise ConfigError(
                f"micro_batch, warmup and cooldown must not be negative and lr must be positive; "
                f"found {self.micro_batch}, {self.warmup}, {self.cooldown} and {self.lr}."
            )
