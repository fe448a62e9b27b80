"""The loop that all teachers and judges are trained by: AdamW, warm-up, a cosine to zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, autocast, nn
from tqdm import tqdm


@dataclass(frozen=True)
class Schedule:
    """How long and how fast. The rate rises over the first 5 % of the steps and then falls to zero along a cosine."""

    steps: int
    batch: int
    lr: float = 1e-3
    weight_decay: float = 0.01
    seed: int = 0
    bf16: bool = False
    """Whether matrix products and convolutions are computed in bf16; weights stay in fp32. Half faster where a CPU has it."""

    def rate(self, step: int) -> float:
        warmup = max(1, self.steps // 20)
        if step < warmup:
            return self.lr * (step + 1) / warmup
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, self.steps - warmup)))


def fit(
    what: str, parameters: Iterable[nn.Parameter], loss_of: Callable[[Tensor], Tensor], rows: Iterable[Tensor], schedule: Schedule
) -> list[float]:
    """Minimise `loss_of(row numbers)` over the batches of `rows`; return the loss of every step. Seeds torch."""
    parameters = list(parameters)
    torch.manual_seed(schedule.seed)
    optimizer = torch.optim.AdamW(parameters, lr=schedule.lr, weight_decay=schedule.weight_decay, betas=(0.9, 0.98))
    losses = []
    bar = tqdm(rows, desc=what, total=schedule.steps, mininterval=5)
    for step, batch in enumerate(bar):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        with autocast("cpu", torch.bfloat16, enabled=schedule.bf16):
            loss = loss_of(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
        bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
    return losses
