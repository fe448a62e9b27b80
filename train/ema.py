"""A moving average of the weights, in fp32 whatever the weights are kept in."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class MovingAverage:
    """shadow = decay * shadow + (1 - decay) * weight, after every update.

    In bf16 one step of 1 - decay = 1e-4 would be rounded away; so would a weight's own low bits, which Kahan AdamW keeps apart
    as `compensation` and which count here. Give it the parameters whose optimiser state this rank has (`Shards.owned`).
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float):
        self.decay = decay
        self._parameters = dict(parameters)
        self.shadow: dict[str, Tensor] = {name: p.detach().float().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, optimizer: Optimizer) -> None:
        for name, parameter in self._parameters.items():
            weight = parameter.float()
            compensation = optimizer.state[parameter].get("compensation") if parameter in optimizer.state else None
            if compensation is not None:
                weight = weight + compensation.float()
            self.shadow[name].lerp_(weight, 1 - self.decay)
