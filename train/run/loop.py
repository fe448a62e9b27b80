"""The loop that both stages run: resume, step, guard, log, checkpoint, stop when told to."""

# The _foreach functions, which torch's own optimisers are made of: one kernel for many small tensors.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from ..data.course import Course
from .checkpointing import Checkpoints, SavedState
from .clock import peak_memory
from .command_line import as_plain, write_yaml
from .config import RunConfig
from .folder_lock import held
from .logs import RunLog
from .optim_8bit import adamw_8bit
from .ranks import Ranks
from .sharding import ShardedAdamW, Shards
from .state import State
from .tolerance import Tolerance, TooManyUnusableError

logger = logging.getLogger(__name__)


class NonFiniteLossError(RuntimeError):
    """A loss or gradient that is infinite or not a number; raised before the weights are touched."""


class Task(Protocol):
    """One stage of training, as the loop sees it. Everything random in a step follows from the seed and its number."""

    # A task may also have `fingerprint`, a text that tells the data it is trained on: a run that goes on with other data says so.
    # And `follow(course)`, which is told the sizes of its batches before the first one; `unusable(batch)`, the key and the fault
    # of each sample that a row of the batch stands in for; `evaluate_start()`, as `evaluate`, of the weights that a run starts
    # from; `flops_per_row(step)`, what a row's forward and backward pass compute at a step, for MFU.

    @property
    def config(self) -> RunConfig:
        """The configuration in effect: what was left open is filled in."""
        ...

    @property
    def optimizer(self) -> Optimizer:
        """What updates `parameters`."""
        ...

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that are trained."""
        ...

    def batch(self, step: int) -> Mapping[str, Any]:
        """This rank's share of the global batch of a step."""
        ...

    def suspects(self, batch: Mapping[str, Any]) -> list[str]:
        """Keys of the rows that may have made a loss infinite or not a number."""
        ...

    def backward(self, batch: Mapping[str, Any], step: int) -> dict[str, float]:
        """Leave the global batch's mean gradient in the parameters; return this rank's loss (as "loss") and its parts."""
        ...

    def after_step(self, step: int) -> None:
        """What follows an update: clamps, moving averages."""
        ...

    def state(self) -> State:
        """Everything that a resumed run needs and this rank keeps, as tensors: those in use, not copies."""
        ...

    def load_state(self, saved: SavedState, step: int) -> None:
        """Inverse of `state`, after which `step` is the next step. Raises ResumeError for what does not fit."""
        ...

    def evaluate(self, step: int) -> Mapping[str, float | Path]:
        """Measurements due after `step` steps, and pictures by their files; empty if none are. It may change nothing."""
        ...

    def export(self) -> None:
        """Write the weights as files that the library reads. Called on every rank; rank 0 writes."""
        ...


def run(task: Task, config: RunConfig, ranks: Ranks) -> bool:
    """Train to the end, or to a SIGTERM; returns whether it came to the end. An earlier run in `config.out` is
    resumed.

    Raises NonFiniteLossError before a bad update, CheckpointWriteError when a checkpoint cannot be written,
    FolderInUseError when another process writes into `config.out`.
    """
    with held(config.out) if ranks.is_main else nullcontext():
        return _run(task, config, ranks)


def _run(task: Task, config: RunConfig, ranks: Ranks) -> bool:
    checkpoints = Checkpoints(config.out / "checkpoints", ranks, config.keep_last)
    if ranks.is_main:
        checkpoints.folder.mkdir(parents=True, exist_ok=True)
    ranks.barrier()
    start, notes = _resume(task, config, checkpoints)
    course = _course(config, start, notes)
    if hasattr(task, "follow"):
        task.follow(course)  # pyright: ignore[reportAttributeAccessIssue]
    if ranks.is_main:  # only now: a run that is refused leaves the configuration that it is told to use
        write_yaml(config, config.out / "config.yaml")
    tolerance = Tolerance(config.tolerate, ranks, notes.get("unusable", []))

    def save(done: int, log: RunLog) -> None:
        notes = {"config": as_plain(config), "data": getattr(task, "fingerprint", None)}
        _save(task, checkpoints, done, log, {**notes, "batches": course.changes, "unusable": sorted(tolerance.known)})

    with _termination() as asked_to_stop, RunLog(config, ranks, start, course) as log:
        if start:
            log.note("resume", start, {"ranks": ranks.world_size})
        log.computes(getattr(task, "flops_per_row", None))
        try:
            if not start and hasattr(task, "evaluate_start"):
                _measure(task.evaluate_start, 0, log)  # pyright: ignore[reportAttributeAccessIssue]
            for step in range(start, config.steps):
                if config.phases and step in (start, config.phase_of(step).first):
                    log.note("phase", step, {"settings": config.phases[config.stretches.index(config.phase_of(step))]})
                values = train_step(task, config, ranks, step, tolerance, log)
                done = step + 1
                log.step(done, values)
                stop, writing = ranks.any(asked_to_stop.is_set(), checkpoints.writing)
                if not writing:
                    _finish(checkpoints, log)
                if done % config.save_every == 0 or done == config.steps or stop:
                    save(done, log)
                _measure(lambda done=done: task.evaluate(done), done, log)
                # Asked again: a signal during a long save or measurement must not wait for another step.
                if done < config.steps and any(ranks.any(stop, asked_to_stop.is_set())):
                    save(done, log)
                    _finish(checkpoints, log)
                    logger.warning("Stopped by SIGTERM after step %d; the same command goes on from there.", done)
                    return False
        except BaseException as error:
            # What was done before is kept, unless ranks were to wait here for one that is somewhere else.
            if ranks.world_size == 1 or isinstance(error, NonFiniteLossError | TooManyUnusableError):
                _finish(checkpoints, log)
            raise
        _finish(checkpoints, log)
    task.export()
    ranks.barrier()
    return True


def learning_rate(config: RunConfig, step: int) -> float:
    """Linear warm-up, constant, linear cooldown: the rate of step `step`, counted from 0. No step's rate is zero.

    Both are those of the whole run; in between each phase has its own rate.
    """
    rising = (step + 1) / config.warmup if config.warmup else 1.0
    falling = (config.steps - step) / config.cooldown if config.cooldown else 1.0
    return config.phase_of(step).lr * min(1.0, rising, falling)


def make_optimizer(config: RunConfig, parameters: Mapping[str, nn.Parameter], ranks: Ranks) -> ShardedAdamW:
    """AdamW with the paper's settings, its state dealt to the ranks. The parameters are where they will stay."""
    coarse = config.optimizer == "adamw8bit"  # which scales each run of 256 numbers of a parameter together
    shards = Shards(parameters, ranks, dealt=config.shard_optimizer, whole=coarse)
    return (adamw_8bit if coarse else ShardedAdamW)(shards, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed dropout for one step of one rank, so that a resumed run draws what an uninterrupted one would have drawn."""
    from numpy.random import SeedSequence

    torch.manual_seed(int(SeedSequence([seed, step, rank]).generate_state(1)[0]))


def _save(task: Task, checkpoints: Checkpoints, done: int, log: RunLog, notes: Mapping[str, Any]) -> None:
    if done == checkpoints.newest:
        return
    _finish(checkpoints, log)
    checkpoints.begin(done, task.state(), notes)


def _measure(work: Callable[[], Mapping[str, float | Path]], step: int, log: RunLog) -> None:
    """Do and note a measurement, with the seconds that training stood still for it."""
    with log.pause() as pause:
        measured = work()
    if measured:
        log.note("evaluate", step, {**measured, "seconds": pause.seconds, "share_of_time": pause.share_of_time})


def _finish(checkpoints: Checkpoints, log: RunLog) -> None:
    """Wait for the checkpoint that is being written, if one is."""
    step = checkpoints.unfinished
    if step is not None:
        checkpoints.finish()
        log.note("checkpoint", step, {"path": str(checkpoints.path(step))})


def _course(config: RunConfig, start: int, notes: Mapping[str, Any]) -> Course:
    """The sizes of all batches: those before `start` as they were, whatever the configuration now says of them,
    so that the run goes on in the data where it stopped."""
    if not start:
        return config.course
    return Course.of(notes.get("batches") or notes["config"]["batch_size"]).continued(start, config.course)


def _resume(task: Task, config: RunConfig, checkpoints: Checkpoints) -> tuple[int, Mapping[str, Any]]:
    """The step to go on from, and the notes of its checkpoint; empty where there is none."""
    found = checkpoints.latest()
    if not found:
        return 0, {}
    step, meta = found
    # What a checkpoint does not note, an earlier version did not know, or nobody had named.
    noted = {**_defaults(config), **meta["config"]}
    changed = {k: (noted.get(k), v) for k, v in as_plain(config).items() if noted.get(k) != v}
    for name, (before, now) in changed.items():
        logger.warning("Going on with another %s than the run began with: %s, was %s.", name, now, before)
    before, now = meta.get("data"), getattr(task, "fingerprint", None)
    if before and now and before != now:
        logger.warning(
            "Going on with other data than the run began with: the shards' contents have changed since step %d. What was learnt "
            "stays learnt; for a run of its own, give another --out.",
            step,
        )
    task.load_state(checkpoints.saved(step), step)
    logger.info("Going on from step %d.", step)
    return step, meta


def _defaults(config: RunConfig) -> dict[str, Any]:
    """The fields that have values of their own, as `as_plain` writes them."""
    found = {field.name: field.default for field in fields(config) if field.default not in (MISSING, None)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def train_step(
    task: Task, config: RunConfig, ranks: Ranks, step: int, tolerance: Tolerance | None = None, log: RunLog | None = None
) -> dict[str, float]:
    """One update, guarded: a loss or gradient that is not finite on any rank raises NonFiniteLossError and
    changes nothing."""
    began = time.monotonic()
    batch = task.batch(step)
    waited = time.monotonic() - began
    if config.tolerate and tolerance and log and hasattr(task, "unusable"):
        tolerance.heed(
            task.unusable(batch),  # pyright: ignore[reportAttributeAccessIssue]
            lambda key, fault: log.note("unusable", step, {"key": key, "fault": fault}),
        )
    seed_step(config.seed, step, ranks.rank)
    for parameter in task.parameters:
        parameter.grad = None
    values = task.backward(batch, step)
    norm = _gradient_norm(task.parameters)
    bad_loss, bad_norm, waited, memory = ranks.most(
        [not math.isfinite(values["loss"]), not math.isfinite(norm), waited, peak_memory(ranks.device)]
    )
    if bad_loss or bad_norm:
        raise _non_finite(step, values["loss"], norm, task.suspects(batch), ranks)
    if config.clip_grad and norm > config.clip_grad:
        torch._foreach_mul_([p.grad for p in task.parameters if p.grad is not None], config.clip_grad / norm)
    lr = learning_rate(config, step)
    for group in task.optimizer.param_groups:
        group["lr"] = lr
    task.optimizer.step()
    task.after_step(step)
    own = {"gradient_norm": norm, "lr": lr, "data_seconds": waited, "peak_memory_gib": memory}
    return {**dict(zip(values, ranks.mean(list(values.values())), strict=True)), **own}


def _gradient_norm(parameters: list[nn.Parameter]) -> float:
    norms = torch._foreach_norm([p.grad for p in parameters if p.grad is not None], dtype=torch.float32)
    return float(torch.stack(norms).norm())


def _non_finite(step: int, loss: float, norm: float, suspects: list[str], ranks: Ranks) -> NonFiniteLossError:
    shown = ", ".join(suspects[:8]) + (f" and {len(suspects) - 8} more" if len(suspects) > 8 else "")
    return NonFiniteLossError(
        f"Step {step + 1} has loss {loss:g} on rank {ranks.rank} and gradient norm {norm:g}; the weights were not changed. "
        f"The batch of rank {ranks.rank}: {shown}. Look at these samples, lower lr, or raise warmup; "
        "the same command goes on from the last checkpoint."
    )


@contextmanager
def _termination() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, for as long as the context lasts."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)
