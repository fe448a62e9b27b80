"""A progress bar for a terminal; a line per step where the output is no terminal."""

from __future__ import annotations

import sys
import time
from typing import TextIO

_WIDTH = 32


class ProgressBar:
    """Shows how much is done and what is at work."""

    def __init__(self, stream: TextIO = sys.stdout) -> None:
        self.stream = stream
        self.live = stream.isatty()
        self.started = time.monotonic()
        self.shown = ""

    def show(self, done: float, label: str) -> None:
        """Draw the bar: `done` in [0, 1]."""
        if self.live:
            filled = round(done * _WIDTH)
            seconds = time.monotonic() - self.started
            bar = f"[{'#' * filled}{'.' * (_WIDTH - filled)}] {done:4.0%}  {seconds:4.0f} s  {label}"
            # \x1b[K clears what a longer label left.
            self.stream.write(f"\r  {bar}\x1b[K")
        elif label != self.shown:
            self.stream.write(f"  {done:4.0%}  {label}\n")
        self.shown = label
        self.stream.flush()

    def close(self) -> None:
        """End the line."""
        if self.live:
            self.stream.write("\n")
            self.stream.flush()
