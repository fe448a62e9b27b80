"""Optimiser state and moving averages dealt to the ranks (ZeRO-1, arXiv
1910.02054): each keeps those of its own parameters.

AdamW treats every number by itself, so a run has the same bits with and
without. Gradients and weights stay whole on all ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .optim import KahanAdamW
from .ranks import Ranks

BUCKET = 2**25
"""Elements broadcast at once: 64 MB of bf16, long enough that latency does not count."""


def deal(sizes: Mapping[str, int], world_size: int) -> dict[str, int]:
    """name -> rank: the largest first, each to the rank that has least. The same wherever it is asked."""
    load = [0] * world_size
    owners = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        owners[name] = load.index(min(load))
        load[owners[name]] += sizes[name]
    return owners


class Shards:
    """Who keeps what belongs to which parameter: `owned` are this rank's; all of them where nothing is dealt out."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], ranks: Ranks, dealt: bool):
        self.ranks = ranks
        self.parameters = dict(parameters)
        self.dealt = dealt and ranks.world_size > 1
        self._owners = deal({name: p.numel() for name, p in parameters.items()}, ranks.world_size) if self.dealt else {}
        self.owned = {name: p for name, p in parameters.items() if self._owner(name) == ranks.rank}
        self._buckets = _buckets(self.parameters, self._owners)

    @torch.no_grad()
    def share(self) -> None:
        """Give every rank the weights that their owners have stepped; collective."""
        for owner, bucket in self._buckets:
            first, sizes = bucket[0], [parameter.numel() for parameter in bucket]
            if owner == self.ranks.rank:
                dist.broadcast(torch.cat([parameter.flatten() for parameter in bucket]), owner)
                continue
            flat = torch.empty(sum(sizes), dtype=first.dtype, device=first.device)
            dist.broadcast(flat, owner)
            for parameter, piece in zip(bucket, flat.split(sizes), strict=True):
                parameter.copy_(piece.view_as(parameter))

    @torch.no_grad()
    def collect(self, own: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """What every rank holds of its own parameters, as `dtype`: all of it on
        rank 0, in CPU memory, nothing elsewhere.

        Collective; one tensor is on the way at a time. Tensors have their parameter's shape.
        """
        if not self.dealt:
            return {name: own[name].to(dtype).cpu() for name in self.parameters} if self.ranks.is_main else {}
        whole = {}
        for name, parameter in self.parameters.items():
            if name in own:
                tensor = own[name].to(dtype).contiguous()
            else:
                tensor = torch.empty(parameter.shape, dtype=dtype, device=parameter.device)
            dist.broadcast(tensor, self._owner(name))
            if self.ranks.is_main:
                whole[name] = tensor.cpu()
        return whole

    def _owner(self, name: str) -> int:
        return self._owners.get(name, self.ranks.rank)


class ShardedAdamW(KahanAdamW):
    """KahanAdamW over the ranks of a run: each steps the parameters that it owns, then all have all weights.

    Its `state` and `param_groups` are those of `shards.owned`; states exist from the start, so that a checkpoint
    can be read into them.
    """

    def __init__(self, shards: Shards, weight_decay: float, **settings: Any):
        self.shards = shards
        super().__init__(decayed(shards, weight_decay), **settings)
        for parameter in shards.owned.values():
            self._initialise(parameter)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of all weights; collective."""
        loss = super().step(closure)
        self.shards.share()
        return loss


def decayed(shards: Shards, weight_decay: float) -> list[dict[str, Any]]:
    """This rank's parameters as an optimiser's groups: weights of fewer than two dimensions (gains, biases,
    temperatures) are not decayed, as in CLIP."""
    owned = list(shards.owned.values())
    return [
        {"params": [p for p in owned if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in owned if p.ndim < 2], "weight_decay": 0.0},
    ]


def _buckets(parameters: Mapping[str, nn.Parameter], owners: Mapping[str, int]) -> list[tuple[int, list[nn.Parameter]]]:
    """(owner, parameters of one dtype, at most BUCKET elements or one parameter), in the same order on all ranks."""
    buckets: list[tuple[int, list[nn.Parameter]]] = []
    open_buckets: dict[tuple[int, torch.dtype], list[nn.Parameter]] = {}
    for name, owner in owners.items():
        parameter = parameters[name]
        bucket = open_buckets.get((owner, parameter.dtype))
        if bucket is None or sum(p.numel() for p in bucket) + parameter.numel() > BUCKET:
            bucket = open_buckets[owner, parameter.dtype] = []
            buckets.append((owner, bucket))
        bucket.append(parameter)
    return buckets
