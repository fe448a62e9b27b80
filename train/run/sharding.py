"""Optimiser state and moving averages dealt to the ranks (ZeRO-1, arXiv
1910.02054): each keeps those of its own part of the weights.

All weights, one after another, are cut into as many equal runs as there are ranks, between rows (along the
first dimension): the largest tensor, half of what pretraining trains, is then nobody's burden. AdamW treats
every number by itself, so a run has the same bits with and without. Gradients and weights stay whole on all
ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .optim import KahanAdamW
from .ranks import Ranks
from .state import Part, State

BUCKET = 2**25
"""Elements broadcast at once: 64 MB of bf16, long enough that latency does not count."""


class Cut(NamedTuple):
    """The rows `start` to `stop` of the parameter `name`, and the rank that keeps what belongs to them."""

    name: str
    owner: int
    start: int
    stop: int


def cut(shapes: Mapping[str, Sequence[int]], world_size: int, whole: bool = False) -> list[Cut]:
    """Deal the parameters, in their order, to the ranks, in theirs: each gets the same share to half a row at
    either end, or with `whole` to half a parameter."""
    sizes = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
    total, before, cuts = sum(sizes.values()), 0, []
    for name, size in sizes.items():
        rows = shapes[name][0] if shapes[name] else 1
        step = rows if whole else 1  # cuts lie at its multiples
        ends = [(total * rank / world_size - before) / max(size, 1) for rank in range(1, world_size)]
        bounds = [0, *(min(max(round(end * rows / step), 0), rows // step) * step for end in ends), rows]
        cuts += [Cut(name, rank, *span) for rank, span in enumerate(pairwise(bounds)) if span[0] < span[1]]
        before += size
    return cuts


class Shards:
    """Who keeps what belongs to which weights: `owned` are this rank's, by their parameter's name; all of them where
    nothing is dealt out. They are the parameters themselves, or views of some of their rows."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], ranks: Ranks, dealt: bool, whole: bool = False):
        """whole: no parameter is cut, for an optimiser to which a parameter is more than its numbers."""
        self.ranks = ranks
        self.parameters = dict(parameters)
        self.dealt = dealt and ranks.world_size > 1
        shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        self._cuts = cut(shapes, ranks.world_size if self.dealt else 1, whole)
        self._pieces = [self._piece(each) for each in self._cuts]
        mine = [(each, piece) for each, piece in zip(self._cuts, self._pieces, strict=True) if self._is_mine(each)]
        self.owned: dict[str, Tensor] = {each.name: piece for each, piece in mine}
        self._parts = {each.name: each for each, piece in mine if piece is not self.parameters[each.name]}
        self._buckets = _buckets(self._cuts, self._pieces) if self.dealt else []

    def placed(self, name: str, tensor: Tensor) -> Tensor | Part:
        """A tensor that belongs to `owned[name]` with the place that it has in the whole one, if it is but a part."""
        if name not in self._parts or tensor.shape != self.owned[name].shape:
            return tensor
        return Part(tensor, self._parts[name].start, len(self.parameters[name]))

    def lend_gradients(self) -> None:
        """Give the parts of parameters that this rank owns their parts of the gradients, which are not copied."""
        for name, each in self._parts.items():
            gradient = self.parameters[name].grad
            self.owned[name].grad = None if gradient is None else gradient[each.start : each.stop]

    def return_gradients(self) -> None:
        """Let go of what `lend_gradients` gave."""
        for name in self._parts:
            self.owned[name].grad = None

    @torch.no_grad()
    def share(self) -> None:
        """Give every rank the weights that their owners have stepped; collective."""
        for owner, bucket in self._buckets:
            first, sizes = bucket[0], [piece.numel() for piece in bucket]
            if owner == self.ranks.rank:
                dist.broadcast(torch.cat([piece.detach().flatten() for piece in bucket]), owner)
                continue
            flat = torch.empty(sum(sizes), dtype=first.dtype, device=first.device)
            dist.broadcast(flat, owner)
            for piece, found in zip(bucket, flat.split(sizes), strict=True):
                piece.copy_(found.view_as(piece))

    @torch.no_grad()
    def collect(self, own: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """What every rank holds of its own weights, as `dtype`: all of it on
        rank 0, in CPU memory, nothing elsewhere.

        Collective; one piece is on the way at a time. `own` is by `owned`'s names, and shaped as they are;
        what comes back has the parameters' shapes.
        """
        if not self.dealt:
            return {name: own[name].to(dtype).cpu() for name in self.parameters} if self.ranks.is_main else {}
        found: dict[str, list[Tensor]] = {}
        for each, piece in zip(self._cuts, self._pieces, strict=True):
            if self._is_mine(each):
                tensor = own[each.name].to(dtype).contiguous()
            else:
                tensor = torch.empty(piece.shape, dtype=dtype, device=piece.device)
            dist.broadcast(tensor, each.owner)
            if self.ranks.is_main:
                found.setdefault(each.name, []).append(tensor.cpu())
        return {name: pieces[0] if len(pieces) == 1 else torch.cat(pieces) for name, pieces in found.items()}

    def _piece(self, each: Cut) -> Tensor:
        parameter = self.parameters[each.name]
        whole = parameter.ndim == 0 or each.stop - each.start == len(parameter)
        return parameter if whole else parameter.detach()[each.start : each.stop]

    def _is_mine(self, each: Cut) -> bool:
        return not self.dealt or each.owner == self.ranks.rank


class ShardedAdamW(KahanAdamW):
    """KahanAdamW over the ranks of a run: each steps the weights that it owns, then all have all weights.

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
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.shards.lend_gradients()
        super().step()
        self.shards.return_gradients()
        self.shards.share()
        return loss


def optimizer_state(optimizer: ShardedAdamW) -> State:
    """What this rank keeps of the optimiser, by parameter name and kind; the tensors stay the optimiser's."""
    return {
        f"optimizer.{name}.{kind}": optimizer.shards.placed(name, tensor)
        for name, weight in optimizer.shards.owned.items()
        for kind, tensor in optimizer.state[weight].items()
    }


def decayed(shards: Shards, weight_decay: float) -> list[dict[str, Any]]:
    """This rank's weights as an optimiser's groups: weights of fewer than two dimensions (gains, biases,
    temperatures) are not decayed, as in CLIP."""
    owned = list(shards.owned.values())
    return [
        {"params": [p for p in owned if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in owned if p.ndim < 2], "weight_decay": 0.0},
    ]


def _buckets(cuts: Sequence[Cut], pieces: Sequence[Tensor]) -> list[tuple[int, list[Tensor]]]:
    """(owner, pieces of one dtype, at most BUCKET elements or one piece), in the same order on all ranks."""
    buckets: list[tuple[int, list[Tensor]]] = []
    open_buckets: dict[tuple[int, torch.dtype], list[Tensor]] = {}
    for each, piece in zip(cuts, pieces, strict=True):
        bucket = open_buckets.get((each.owner, piece.dtype))
        if bucket is None or sum(p.numel() for p in bucket) + piece.numel() > BUCKET:
            bucket = open_buckets[each.owner, piece.dtype] = []
            buckets.append((each.owner, bucket))
        bucket.append(piece)
    return buckets
