"""What a run tells: JSONL always, TensorBoard and Weights & Biases on request, and a progress bar.

Rank 0 alone writes.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from ..data.course import Course
from .command_line import as_plain
from .config import ConfigError, RunConfig
from .ranks import Ranks

Values = Mapping[str, float]


def require_loggers(config: RunConfig) -> None:
    """Raise ConfigError if a log was asked for whose package is not
    installed: before a run loads anything, on every rank."""
    for name, package, asked in (("TensorBoard", "tensorboard", config.tensorboard), ("Weights & Biases", "wandb", config.wandb)):
        if asked and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"The configuration asks for {name}, but the package {package} is not installed. Install it with "
                f"`pip install {package}`, or leave --{package} out; log.jsonl has the same values."
            )


class RunLog:
    """The log of one run; a resumed run appends to it. A context manager."""

    def __init__(self, config: RunConfig, ranks: Ranks, start: int, course: Course | None = None):
        self.every = config.log_every
        self._course = course or config.course
        self._active = ranks.is_main
        self._since, self._rows = time.monotonic(), 0
        self._file: TextIO | None = None
        self._bar: Any = None
        self._tensorboard: Any = None
        self._wandb: Any = None
        if self._active:
            self._open(config, start)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file:
            self._file.close()
            self._bar.close()
        if self._tensorboard:
            self._tensorboard.close()
        if self._wandb:
            self._wandb.finish(exit_code=1 if error else 0)

    def step(self, step: int, values: Values) -> None:
        """Note the values of a step (counted from 1): loss parts, scales, learning rate; adds samples per second."""
        if not self._active:
            return
        self._rows += self._course.batch_size(step - 1)
        self._bar.update()
        if step % self.every and step != self._bar.total:
            return
        now = time.monotonic()
        rate = self._rows / max(now - self._since, 1e-9)
        self._since, self._rows = now, 0
        self._bar.set_postfix({"samples/s": f"{rate:.1f}", **{k: f"{v:.4g}" for k, v in values.items()}}, refresh=False)
        self._write("train", step, {**values, "samples_per_second": rate})

    def note(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Note something that happens now and then: a measurement, a checkpoint, a resumption."""
        if self._active:
            self._write(kind, step, values)

    def _open(self, config: RunConfig, start: int) -> None:
        from tqdm import tqdm

        path = config.out / "log.jsonl"
        _forget_after(path, start)
        self._file = path.open("a", buffering=1)
        interval = 0.1 if sys.stderr.isatty() else 30.0  # in a file every refresh is a line of its own
        shape = "{l_bar}{bar:10}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"  # the bar leaves room for the values
        self._bar = tqdm(total=config.steps, initial=start, dynamic_ncols=True, mininterval=interval, bar_format=shape)
        if config.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(str(config.out / "tensorboard"), purge_step=start + 1)
        if config.wandb:
            self._wandb = _wandb_run(config)

    def _write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        assert self._file
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        numbers = {f"{kind}/{name}": value for name, value in values.items() if isinstance(value, int | float)}
        if self._tensorboard:
            for name, value in numbers.items():
                self._tensorboard.add_scalar(name, value, step)
        if self._wandb:
            self._wandb.log(numbers, step=step)


def _forget_after(path: Path, step: int) -> None:
    """Remove from a log what came after the checkpoint that the run goes on
    from: those steps will be taken, and noted, again."""
    if not path.is_file():
        return
    lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]  # a kill may have cut the last
    shorter = path.with_suffix(".part")
    shorter.write_text("".join(line for line in lines if json.loads(line)["step"] <= step))
    shorter.replace(path)


def _wandb_run(config: RunConfig) -> Any:
    """The run's page at Weights & Biases, or its folder where WANDB_MODE is offline.

    A resumed run goes on with its own.
    """
    import wandb

    note = config.out / "wandb_run"
    known = note.read_text().strip() if note.is_file() else None
    run = wandb.init(
        project=config.wandb, name=config.out.name, dir=config.out, config=as_plain(config), id=known, resume="allow"
    )
    note.write_text(run.id)
    return run
