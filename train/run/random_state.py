"""Where torch's random generators stand, to draw the same numbers again: in a second pass, or in a resumed run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor


class RandomState(NamedTuple):
    """The generators that dropout and losses draw from, on the CPU and on this process's GPU."""

    cpu: Tensor
    cuda: Tensor | None

    @staticmethod
    def now() -> RandomState:
        return RandomState(torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None)

    def restore(self) -> None:
        """Draw from here on what was drawn then; a GPU's part is passed over where there is none."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.cuda)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Draw the same numbers again inside; afterwards the generators are as they were before."""
        with torch.random.fork_rng(devices=[] if self.cuda is None else [torch.cuda.current_device()]):
            self.restore()
            yield
