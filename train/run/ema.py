"""A moving average of the weights, in fp32 whatever the weights are kept in."""

# The _foreach functions, which torch's own optimisers are made of: one kernel for many small tensors.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer

from .sharding import Shards
from .state import State


class MovingAverage:
    """shadow = d * shadow + (1 - d) * weight after every update.

    D is min(decay, n / (9 + n)) after the n-th, 0 after the first.

    n counts a weight's updates, as its optimiser state does, so a resumed run goes on with it. At a constant
    0.9999, nine tenths of the average would still be the weights that the run began with after 1,000 updates.
    (diffusers' rule.)

    In bf16 one step of 1 - decay = 1e-4 would be rounded away; so would a weight's own low bits, which Kahan
    AdamW keeps apart as `compensation` and which count here. Give it the weights whose optimiser state this
    rank has (`Shards.owned`).
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float):
        self.decay = decay
        self._parameters = dict(parameters)
        self.shadow: dict[str, Tensor] = {name: p.detach().float().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, optimizer: Optimizer) -> None:
        plain: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for name, parameter in self._parameters.items():
            state = optimizer.state.get(parameter)
            if not state:
                continue  # it never had a gradient
            updates = int(state["step"])
            if parameter.dtype == torch.float32:
                plain.setdefault(updates, []).append((self.shadow[name], parameter))
                continue
            weight = parameter.float()
            if "compensation" in state:
                weight = weight + state["compensation"].float()
            self.shadow[name].lerp_(weight, 1 - self.decay_after(updates))
        for updates, pairs in plain.items():  # one kernel for many small weights
            shadows, weights = zip(*pairs, strict=True)
            torch._foreach_lerp_(shadows, weights, 1 - self.decay_after(updates))

    def state(self, shards: Shards) -> State:
        """What this rank keeps of the average, each with its place in the whole; the tensors stay the average's."""
        return {f"ema.{name}": shards.placed(name, tensor) for name, tensor in self.shadow.items()}

    @contextmanager
    def in_place(self, shards: Shards) -> Iterator[None]:
        """While it lasts, all ranks' parameters hold their average, rounded to their precision; then the very bits that
        they held before. Collective. Each rank keeps those of its own weights, in CPU memory.

        An exception leaves the averages in place, since another rank would wait for this one to take them back.
        """
        kept = {name: parameter.detach().to("cpu", copy=True) for name, parameter in shards.owned.items()}
        self._fill(shards, self.shadow)
        yield
        self._fill(shards, kept)

    @staticmethod
    @torch.no_grad()
    def _fill(shards: Shards, values: Mapping[str, Tensor]) -> None:
        for name, parameter in shards.owned.items():
            parameter.copy_(values[name])
        shards.share()

    def decay_after(self, updates: int) -> float:
        """What is kept of the average after a weight's `updates`-th update, counted from 1."""
        return min(self.decay, updates / (9 + updates)) if updates > 1 else 0.0
