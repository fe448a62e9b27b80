"""What a run takes: its time and its memory."""

from __future__ import annotations

import importlib.util
import sys
import time

import torch

from ..data.course import Course


class Clock:
    """How fast a run goes: its rows over time, without and with what it stood still for."""

    def __init__(self, steps: int, course: Course):
        self._course, self._steps = course, steps
        self.began = self._first = time.monotonic()
        self.paused = 0.0
        self._rows = 0
        self._since, self._since_paused, self._since_rows = self.began, 0.0, 0

    def step(self, step: int) -> None:
        """A step is done, counted from 1."""
        self._rows += self._course.batch_size(step - 1)

    def rate(self) -> float:
        """Rows a second since it was last asked, pauses left out."""
        now = time.monotonic()
        spent = now - self._since - (self.paused - self._since_paused)
        rows = self._rows - self._since_rows
        self._since, self._since_paused, self._since_rows = now, self.paused, self._rows
        return rows / max(spent, 1e-9)

    def pause(self, seconds: float) -> None:
        """So long nothing was trained."""
        self.paused += seconds
        if not self._rows:  # before the first step: no part of the pace
            self._first += seconds

    def seconds_left(self, step: int) -> float:
        """To the end, at the pace since this start of the run, pauses between steps included."""
        left = self._course.rows_before(self._steps) - self._course.rows_before(step)
        return left * (time.monotonic() - self._first) / max(self._rows, 1)


class Pause:
    """A stretch of time that a clock leaves out of its rate. A context manager."""

    def __init__(self, clock: Clock):
        self._clock = clock
        self.seconds = 0.0
        """How long it lasted."""
        self.share_of_time = 0.0
        """Of the time since the run was started, that of all pauses so far."""

    def __enter__(self) -> Pause:
        self._began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        now = time.monotonic()
        self.seconds = now - self._began
        self._clock.pause(self.seconds)
        self.share_of_time = self._clock.paused / max(now - self._clock.began, 1e-9)


def peak_memory(device: torch.device) -> float:
    """The most memory so far, in GiB: what torch had allocated on a GPU; on the CPU the process's own.

    0 where nobody tells.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if importlib.util.find_spec("resource") is None:
        return 0.0
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**30 if sys.platform == "darwin" else 2**20)
