"""Configurations: dataclasses, filled from a preset (`train/configs/*.yaml`) or a YAML file, then from the
command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch

from ..data.course import Course

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class ConfigError(ValueError):
    """A configuration that cannot be used: what is wrong, what was found, what to do."""


@dataclass(frozen=True)
class Phase:
    """Steps `first` to `first + steps` (not included), counted from 0, and what they are trained with."""

    first: int
    steps: int
    batch_size: int
    lr: float
    resolution: int = 0
    latents: Path | None = None


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What both stages share: where the run lives, how long it is, how it steps, what it writes."""

    command: ClassVar[str]
    phase_keys: ClassVar[tuple[str, ...]] = ("steps", "batch_size", "lr")

    out: Path
    """Folder of the run: checkpoints, log.jsonl, config.yaml and the finished weights. A run found there is resumed."""
    steps: int
    """Optimiser steps in all, those of an interrupted run included."""
    batch_size: int
    """Global batch: rows per optimiser step over all ranks, a multiple of their number."""
    micro_batch: int = 0
    """Rows that a rank puts through the models at once, frozen ones included; 0 is all of its share. Smaller
    needs less memory, same gradient."""
    phases: tuple[str, ...] = ()
    """Stretches of steps with settings of their own, one after another, as the paper's two batches:
    `steps=40000,batch_size=4096` `steps=10000,batch_size=512,lr=1e-5`, in YAML also as mappings. What a phase
    does not name is the run's; the last may leave its steps out. Together they are `steps`. Each goes on in the
    data where the one before stopped. When finetuning also `resolution`, and `latents` where those are cached."""
    seed: int = 0
    """Everything random follows from it and the step: data order, dropout, noise, condition dropout."""
    lr: float = 2e-5
    """Learning rate after warm-up (paper: 2e-5)."""
    warmup: int = 0
    """Steps over which the learning rate rises from zero. The paper names none."""
    cooldown: int = 0
    """Last steps, over which the learning rate falls towards zero in a line. The paper names none. They count
    from `steps`: a run that is to be made longer should not have reached them."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of first and second moment (paper: 0.9, 0.999)."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay (paper: 0.01)."""
    clip_grad: float = 1.0
    """Largest norm of the gradient; 0 never clips. The paper names none."""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """`adamw8bit` keeps both moments in 8 bits (bitsandbytes): 2 bytes a weight instead of 8. For weights in fp32: a
    LoRA's, or those of --dtype fp32. In bf16 it would lose most updates, which `adamw` keeps."""
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
    """Threads per rank, in its own process, that read and decode samples ahead."""
    tolerate: int = 0
    """Samples that may turn out unusable, in the whole run: a picture that has rotten on the disk is replaced by
    the next row of the order that can be used, and named in the log. One more ends the run; at 0 the first
    does."""
    save_every: int = 1000
    """Steps between checkpoints."""
    keep_last: int = 3
    """Checkpoints to keep; older ones are deleted once a newer one is whole."""
    log_every: int = 10
    """Steps between lines of log.jsonl."""
    peak_tflops: float = 0.0
    """What one device can do at most in the run's precision, dense, in TFLOP/s: MFU is told as a share of it. 0
    takes it from a table of devices in bf16; where that has none, as for CPUs, no MFU is told."""
    tensorboard: bool = False
    """Also write TensorBoard event files below the run's folder."""
    wandb: str = ""
    """Weights & Biases project to log to as well; empty for none."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "save_every", "keep_last", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.peak_tflops < 0:
            raise ConfigError(f"peak_tflops is {self.peak_tflops:g}; it is a number of TFLOP/s, 0 for the table's.")
        if self.tolerate < 0:
            raise ConfigError(f"tolerate is {self.tolerate}; it is a number of samples, 0 for none.")
        if min(self.micro_batch, self.warmup, self.cooldown) < 0 or self.lr <= 0:
            raise ConfigError(
                f"micro_batch, warmup and cooldown must not be negative and lr must be positive; "
                f"found {self.micro_batch}, {self.warmup}, {self.cooldown} and {self.lr}."
            )
        _ = self.stretches

    @property
    def stretches(self) -> tuple[Phase, ...]:
        """The phases, or the whole run as one. Raises ConfigError for phases that cannot be meant."""
        texts = [_settings(text, self.phase_keys) for text in self.phases] or [{}]
        found: list[Phase] = []
        for number, settings in enumerate(texts):
            first = found[-1].first + found[-1].steps if found else 0
            steps = self.steps - first if number == len(texts) - 1 and "steps" not in settings else int(settings.get("steps", 0))
            phase = Phase(
                first,
                steps,
                int(settings.get("batch_size", self.batch_size)),
                float(settings.get("lr", self.lr)),
                int(settings.get("resolution", getattr(self, "resolution", 0))),
                Path(settings["latents"]) if "latents" in settings else getattr(self, "latents", None),
            )
            if min(phase.steps, phase.batch_size, phase.lr) <= 0:
                raise ConfigError(
                    f"Phase {number + 1} has steps {phase.steps}, batch_size {phase.batch_size} and lr {phase.lr:g}; each must "
                    "be positive."
                )
            found.append(phase)
        total = found[-1].first + found[-1].steps
        if total != self.steps:
            raise ConfigError(
                f"The phases have {total} steps together, and steps is {self.steps}. Give --steps {total}, or change one."
            )
        return tuple(found)

    @property
    def course(self) -> Course:
        """The size of each step's global batch."""
        return Course.of([(phase.first, phase.batch_size) for phase in self.stretches])

    def phase_of(self, step: int) -> Phase:
        """The phase of a step, counted from 0."""
        return next(phase for phase in reversed(self.stretches) if phase.first <= step)


def _settings(text: str, known: tuple[str, ...]) -> dict[str, str]:
    """`steps=3,lr=1e-4` as names and values. Raises ConfigError."""
    settings = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        name = name.strip().replace("-", "_")
        if not equals or name not in known:
            raise ConfigError(f"The phase {text!r} has {part.strip()!r}; expected NAME=VALUE, of {', '.join(known)}.")
        kind: type = {"latents": str, "lr": float}.get(name, int)
        try:
            kind(value)
        except ValueError as error:
            raise ConfigError(f"The phase {text!r} has {part.strip()!r}, which is no {kind.__name__}.") from error
        settings[name] = value.strip()
    return settings
