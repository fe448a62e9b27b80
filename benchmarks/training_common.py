"""What the parts of `benchmarks/training.py` share: clocks, memory, turns of the contenders, tables."""

from __future__ import annotations

import argparse
import ctypes
import gc
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from faceclip.vae_file import SDXL_SCALE

SDXL_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "scaling_factor": SDXL_SCALE,
}
"""SDXL's VAE, as arguments of diffusers' AutoencoderKL."""
Step = Callable[[int], object]
"""One step of training, given its number."""
Clock = Callable[[], float]
"""Seconds since some moment, see `clock`."""


@dataclass
class Timing:
    """Seconds per step of one contender, one number per turn, and the most memory of any turn (None where unknown)."""

    seconds: list[float] = field(default_factory=list)
    megabytes: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def take_turns(
    contenders: Mapping[str, Callable[[], Step]], device: torch.device, rounds: int, steps: int, warm_up: int, now: Clock
) -> dict[str, Timing | None]:
    """A/B/A/B: every contender is built, warmed up, timed over `steps` steps and thrown away again, `rounds` times.

    So what else the machine does falls on all alike, no one's memory or reading ahead is in another's way, and
    what does not fit beside another still fits. None for a contender that the device has no memory for.
    """
    found: dict[str, Timing | None] = {name: Timing() for name in contenders}
    for _ in range(rounds):
        for name, build in contenders.items():
            timing = found[name]
            if timing is None:
                continue
            try:
                memory = PeakMemory(device)
                step = build()
                for number in range(warm_up):
                    step(number)
                began = now()
                for number in range(warm_up, warm_up + steps):
                    step(number)
                timing.seconds.append((now() - began) / steps)
                timing.megabytes = memory.larger(timing.megabytes)
            except torch.OutOfMemoryError:
                found[name] = None
            step = None
    return found


def take_steps_in_turn(contenders: dict[str, Step], now: Clock, steps: int, warm_up: int = 1) -> dict[str, Timing]:
    """As `take_turns`, step by step: for contenders that fit side by side. Their order changes from step to step."""
    found = {name: Timing() for name in contenders}
    for number in range(warm_up + steps):
        order = list(contenders.items())
        for name, step in order if number % 2 else reversed(order):
            began = now()
            step(number)
            if number >= warm_up:
                found[name].seconds.append(now() - began)
    return found


def clock(device: torch.device, cpu_time: bool = False) -> float:
    """Now, in seconds, after all that the device was asked to do.

    `cpu_time`: seconds that this process computed, all threads.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.process_time() if cpu_time else time.perf_counter()


class PeakMemory:
    """The most memory from now on. On a GPU: what torch allocated, all of it.

    On the CPU: resident, above what there is now.

    Where the system cannot forget an earlier peak (only Linux can), there is no number.
    """

    def __init__(self, device: torch.device):
        self._device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        elif sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)  # what was freed must not hide what is taken next
            Path("/proc/self/clear_refs").write_text("5")
        self._before = self._resident("VmRSS")

    def megabytes(self) -> float | None:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 2**20
        peak = self._resident("VmHWM")
        return None if peak is None or self._before is None else (peak - self._before) / 2**10

    def larger(self, other: float | None) -> float | None:
        """This peak or another one, whichever is larger."""
        return max((value for value in (self.megabytes(), other) if value is not None), default=None)

    def _resident(self, name: str) -> int | None:
        if self._device.type == "cuda" or sys.platform != "linux":
            return None
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


def ratios(first: Timing, second: Timing) -> list[float]:
    """first / second, turn by turn: neighbours in time are compared."""
    return [a / b for a, b in zip(first.seconds, second.seconds, strict=True)]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median and range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def megabytes(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]], note: str = "") -> str:
    """A Markdown table under a line that says what was measured, where."""
    lines = [title, "", "| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, *(["", note] if note else [])])


def machine(options: argparse.Namespace) -> str:
    """The machine and the clock, for a table's title."""
    device, clock_used = options.device, "CPU seconds" if options.cpu_time else "wall clock"
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, {clock_used}"
    vectors = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} CPU ({vectors}), {options.threads} thread(s), torch {torch.__version__}, {clock_used}"


def matmul_peak(device: torch.device, dtype: torch.dtype, now: Clock, repeats: int = 5) -> float:
    """FLOP/s of a large matrix product, the best of some: what this device reaches in practice."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(repeats + 1):
        began = now()
        torch.mm(a, b)
        best = min(best, now() - began)
    return 2 * side**3 / best
