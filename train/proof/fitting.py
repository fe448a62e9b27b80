"""The loop that all teachers and judges are trained by: AdamW, warm-up, a cosine to zero.

It goes on where it was stopped.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, autocast, nn
from tqdm import tqdm

from ..data.storage import publishing
from ..run.random_state import RandomState

KEEP_SECONDS = 60.0
"""How often the state of a training is written: so much is lost at most when it is killed."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast. The rate rises over the first 5 % of the steps and then falls to zero along a cosine."""

    steps: int
    batch: int
    lr: float = 1e-3
    weight_decay: float = 0.01
    seed: int = 0
    bf16: bool = False
    """Whether matrix products and convolutions are computed in bf16; weights
    stay in fp32. Half faster where a CPU has it."""

    def rate(self, step: int) -> float:
        warmup = max(1, self.steps // 20)
        if step < warmup:
            return self.lr * (step + 1) / warmup
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, self.steps - warmup)))


def fit(
    what: str,
    learner: nn.Module,
    loss_of: Callable[[Tensor], Tensor],
    rows: Iterable[Tensor],
    schedule: Schedule,
    keep: Path | None = None,
    randoms: Sequence[random.Random] = (),
) -> list[float]:
    """Minimise `loss_of(row numbers)` over the batches of `rows`; return the loss of every step. Seeds torch.

    learner: what learns, those of its parameters that require gradients, on the device that it computes on.
    keep: a file for the state of the training, written every `KEEP_SECONDS` and at the end; the same call goes on
    from it bit for bit. It stays: `forget` deletes it when the product is written. A file of another schedule is
    not used.
    randoms: Python's generators that `loss_of` draws from; their states are kept, too.
    """
    parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    device = parameters[0].device
    torch.manual_seed(schedule.seed)
    optimizer = torch.optim.AdamW(parameters, lr=schedule.lr, weight_decay=schedule.weight_decay, betas=(0.9, 0.98))
    losses: list[float] = []

    def save() -> None:
        if keep is None:
            return
        state = {"schedule": asdict(schedule), "learner": learner.state_dict(), "optimizer": optimizer.state_dict()}
        state |= {
            "losses": losses,
            "torch_randoms": list(RandomState.now()),
            "randoms": [source.getstate() for source in randoms],
        }
        with publishing(str(keep)) as file:
            torch.save(state, file)

    found = _kept(keep, schedule)
    if found is not None:
        learner.load_state_dict(found["learner"])
        losses = found["losses"]
        if len(losses) >= schedule.steps:
            return losses
        optimizer.load_state_dict(found["optimizer"])
        RandomState(*found["torch_randoms"]).restore()
        for source, state in zip(randoms, found["randoms"], strict=True):
            source.setstate(state)
    kept = time.monotonic()
    bar = tqdm(islice(rows, len(losses), None), desc=what, initial=len(losses), total=schedule.steps, mininterval=5)
    for batch in bar:
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(len(losses))
        with autocast(device.type, torch.bfloat16, enabled=schedule.bf16):
            loss = loss_of(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
        bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
        if time.monotonic() - kept > KEEP_SECONDS:
            save()
            kept = time.monotonic()
    save()
    return losses


def state_of(product: Path, part: str) -> Path:
    """The file that the training of `product`, or of a part of it, keeps its state in until the product is written."""
    return product.with_name(f"{product.name}.{part}.partial")


def forget(product: Path) -> None:
    """Delete the states of a product that is written."""
    for path in product.parent.glob(f"{product.name}.*.partial"):
        path.unlink()


def _kept(keep: Path | None, schedule: Schedule) -> dict[str, Any] | None:
    """The state in a file, if there is one and it is of this schedule and of this version."""
    if keep is None or not keep.is_file():
        return None
    found = torch.load(keep, map_location="cpu", weights_only=True)
    return found if found["schedule"] == asdict(schedule) and "torch_randoms" in found else None
