"""What a run tells: JSONL always, TensorBoard and Weights & Biases on request, and a progress bar.

Rank 0 alone writes.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from ..data.course import Course
from ..data.decode import decode_pixels
from .clock import Clock, Pause
from .command_line import as_plain
from .config import DTYPES, ConfigError, RunConfig
from .flops import peak_flops
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
        self._config, self._ranks = config, ranks
        self._course = course or config.course
        self._active = ranks.is_main
        self._clock = Clock(config.steps, self._course)
        self._waited = 0.0
        self._peak = peak_flops(ranks.device, DTYPES[config.dtype], config.peak_tflops) * ranks.world_size
        self._flops_per_row: Callable[[int], float] | None = None
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

    def computes(self, flops_per_row: Callable[[int], float] | None) -> None:
        """What a row costs at a step, counted from 0, for MFU. It is asked only where the device's peak is known."""
        self._flops_per_row = flops_per_row if self._peak else None

    def pause(self) -> Pause:
        """While it lasts, training stands still for something else: that counts for the run's end, not its speed."""
        return Pause(self._clock)

    def step(self, step: int, values: Values) -> None:
        """Note the values of a step (counted from 1): loss parts, scales, learning rate, waiting, memory.

        Adds `samples_per_second` and `mfu` (where the device's peak is known) since the last line, and `eta_seconds`.
        `data_seconds` are summed up over the steps since.
        """
        if not self._active:
            return
        self._clock.step(step)
        self._waited += values.get("data_seconds", 0.0)
        self._bar.update()
        if step % self.every and step != self._bar.total:
            return
        rate = self._clock.rate()
        line: dict[str, float] = {**values, "samples_per_second": rate}
        if "data_seconds" in values:
            line["data_seconds"] = self._waited
        if self._flops_per_row:
            line["mfu"] = rate * self._flops_per_row(step - 1) / self._peak
        line["eta_seconds"] = self._clock.seconds_left(step)
        self._waited = 0.0
        self._bar.set_postfix(_shown(line), refresh=False)
        self._write("train", step, line)

    def note(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Note something that happens now and then: a measurement, a checkpoint, a resumption.

        A value that is a Path is a picture's file, which TensorBoard and Weights & Biases show.
        """
        if self._active:
            self._write(kind, step, values)

    def _open(self, config: RunConfig, start: int) -> None:
        from tqdm import tqdm

        path = config.out / "log.jsonl"
        _forget_after(path, start)
        self._file = path.open("a", buffering=1)
        interval = 0.1 if sys.stderr.isatty() else 30.0  # in a file every refresh is a line of its own
        shape = "{l_bar}{bar:10}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"  # the bar leaves room for the values
        self._bar = tqdm(
            total=config.steps, initial=start, dynamic_ncols=True, mininterval=interval, bar_format=shape, smoothing=0
        )
        if config.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(str(config.out / "tensorboard"), purge_step=start + 1)
        if config.wandb:
            self._wandb = _wandb_run(config)

    def _write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        assert self._file
        pictures = {f"{kind}/{name}": value for name, value in values.items() if isinstance(value, Path)}
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
        self._file.write(json.dumps({"kind": kind, "step": step, **plain}) + "\n")
        numbers = {f"{kind}/{name}": value for name, value in values.items() if isinstance(value, int | float)}
        if self._tensorboard:
            for name, value in numbers.items():
                self._tensorboard.add_scalar(name, value, step)
            for name, path in pictures.items():
                self._tensorboard.add_image(name, decode_pixels(path.read_bytes(), name), step, dataformats="HWC")
        if self._wandb:
            images = {name: importlib.import_module("wandb").Image(str(path)) for name, path in pictures.items()}
            self._wandb.log({**numbers, **images}, step=step)


def _shown(values: Values) -> dict[str, str]:
    """The bar's words. Its time left is that of `eta_seconds`."""
    own = {"samples_per_second": "samples/s", "data_seconds": "data s", "peak_memory_gib": "GiB", "mfu": "MFU"}
    first = {word: f"{values[name]:.1f}" for name, word in own.items() if name in values and name != "mfu"}
    if "mfu" in values:
        first["MFU"] = f"{values['mfu']:.1%}"
    rest = {name: f"{value:.4g}" for name, value in values.items() if name not in (*own, "eta_seconds")}
    return {**first, **rest}


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
