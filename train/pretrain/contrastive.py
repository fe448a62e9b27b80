"""Contrastive losses whose keys are frozen, over the batch of all ranks (paper, equation 3).

All three targets of FaceCLIP come from frozen towers, so only queries need a gradient. That makes the loss
cheap: keys are gathered once, logits are computed in blocks of rows and thrown away, what a row needs of the
other ranks' rows is one number per column (its log-sum-exp), and the backward pass recomputes the blocks
without talking to anybody. Keys are known before queries are: `gather_keys` sends them on their way while the
encoder computes.

b rows per rank (the same number on all ranks), W ranks, N = W * b rows in the global batch, d = width of
queries and keys. Values returned are the global mean on every rank; gradients carry a factor W, so that the
average over ranks which DistributedDataParallel takes is the gradient of the global mean, exactly. Leave TF32
off, as it is by default: it would round the fp32 features to 10 bits.

Kept for the backward pass, per loss: this rank's queries [b, d] as they are, all ranks' keys [N, d] in the
dtype they travelled in, their labels (8 bytes a row, if there are any), two log-sum-exps (fp32: [b] and [N];
none for the sigmoid loss), scalars. Nothing of size b x N. While a pass runs there are, besides, the keys in
fp32 and two blocks of logits [chunk, N].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.amp import autocast_mode
from torch.autograd.function import once_differentiable

Group: TypeAlias = "dist.ProcessGroup | None"  # None: all ranks

UNIQUE = -1  # a label equal to no other row's
LEFT_OUT = -2  # how a row that takes no part travels in the gathered labels


def rank_and_world_size(group: Group = None) -> tuple[int, int]:
    """This process's place in `group` (None: all ranks) and the group's size; (0, 1) where nothing is distributed."""
    if not dist.is_available() or not dist.is_initialized():
        return 0, 1
    return dist.get_rank(group), dist.get_world_size(group)


def frozen_key_info_nce(
    queries: Tensor,
    keys: Tensor | GatheredKeys,
    scale: Tensor,
    *,
    valid: Tensor | None = None,
    duplicates: Tensor | None = None,
    chunk: int = 1024,
    group: Group = None,
) -> Tensor:
    """The symmetric InfoNCE loss (paper, equation 3) of `queries` [b, d]
    against `keys` [b, d], row by row, over all ranks' rows.

    `queries` and `keys` are of unit length; `scale`, a scalar, multiplies their products (1 / temperature).
    `valid` [b] bool: rows that take part; the others neither have a loss nor are anybody's negatives.
    `duplicates` [b] int64: rows with an equal label >= 0 are not each other's negatives; a negative label is
    equal to nothing. Ranks must agree on whether these two are given. Keys that `gather_keys` has sent already
    bring them, and the group, along. `chunk` rows of logits exist at a time: memory is O(N * chunk). Keys travel
    in the dtype they have; logits are fp32 (fp64 for fp64 queries), under autocast, too. No valid row anywhere
    makes the loss 0. Scalar; see the module on gradients. Raises ValueError for keys that want a gradient, shapes
    that do not fit, or labels of another dtype.
    """
    batch = _global_batch(queries, keys, valid, duplicates, chunk, group)
    return _InfoNCE.apply(queries, scale, batch.keys, batch.labels, batch)  # pyright: ignore[reportReturnType]


def sigmoid_loss(
    queries: Tensor,
    keys: Tensor | GatheredKeys,
    scale: Tensor,
    bias: Tensor,
    *,
    valid: Tensor | None = None,
    duplicates: Tensor | None = None,
    chunk: int = 1024,
    group: Group = None,
) -> Tensor:
    """SigLIP's loss (arXiv 2303.15343, equation 1): every pair is a
    yes-or-no question with the logit `scale * q . k + bias`.

    As `frozen_key_info_nce` in everything else; the sum over pairs is divided by the number of valid rows.
    """
    batch = _global_batch(queries, keys, valid, duplicates, chunk, group)
    return _Sigmoid.apply(queries, scale, bias, batch.keys, batch.labels, batch)  # pyright: ignore[reportReturnType]


class GatheredKeys:
    """All ranks' keys and labels, on their way until `wait` is called; the ranks' tensors stay untouched till then."""

    def __init__(self, rows: int, keys: Tensor, labels: Tensor | None, works: Sequence[dist.Work], group: Group):
        self.rows = rows  # this rank's, b
        self.group = group
        self._keys, self._labels, self._works = keys, labels, works

    def wait(self) -> tuple[Tensor, Tensor | None]:
        """Keys [N, d] and labels [N] int64 (None: every row is valid and unique), once they are here.

        May be called again.
        """
        for work in self._works:
            work.wait()
        self._works = ()
        return self._keys, self._labels


def gather_keys(
    keys: Tensor, *, valid: Tensor | None = None, duplicates: Tensor | None = None, group: Group = None
) -> GatheredKeys:
    """Send this rank's keys [b, d] to all ranks without waiting.

    `frozen_key_info_nce` and `sigmoid_loss` take the result.

    Every rank calls it, in the same order among its other collectives. Raises ValueError as these do.
    """
    _check(keys, valid, duplicates)
    labels = None
    if valid is not None or duplicates is not None:
        labels = torch.full((len(keys),), UNIQUE, device=keys.device) if duplicates is None else duplicates.clamp(min=UNIQUE)
        labels = labels if valid is None else labels.masked_fill(~valid, LEFT_OUT)
    rows, works = len(keys), []
    if rank_and_world_size(group)[1] > 1:
        keys, work = _start_all_gather(keys, group)
        works.append(work)
        if labels is not None:
            labels, work = _start_all_gather(labels, group)
            works.append(work)
    return GatheredKeys(rows, keys, labels, works, group)


def _start_all_gather(tensor: Tensor, group: Group) -> tuple[Tensor, dist.Work]:
    gathered = tensor.new_empty(rank_and_world_size(group)[1] * len(tensor), *tensor.shape[1:])
    # Its name from torch 2.14 on, where the older one warns.
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    work = gather(gathered, tensor.contiguous(), group=group, async_op=True)
    assert work
    return gathered, work


@dataclass(frozen=True, eq=False)
class _GlobalBatch:
    """All ranks' keys [N, d] and labels [N] (None: every row is valid and
    unique), and where this rank's rows lie in them."""

    keys: Tensor
    labels: Tensor | None
    first: int
    world_size: int
    chunk: int
    group: Group

    def count(self) -> Tensor:
        """How many rows take part; at least 1, so that it divides."""
        if self.labels is None:
            return torch.tensor(len(self.keys), device=self.keys.device)
        return (self.labels != LEFT_OUT).sum().clamp(min=1)

    def own_valid(self, rows: int) -> Tensor:
        """[b] bool: which of this rank's rows take part."""
        if self.labels is None:
            return torch.ones(rows, dtype=torch.bool, device=self.keys.device)
        return self.labels[self.first : self.first + rows] != LEFT_OUT

    def all_reduce(self, tensor: Tensor, op: dist.ReduceOp.RedOpType) -> Tensor:
        if self.world_size > 1:
            dist.all_reduce(tensor, op, group=self.group)
        return tensor


def _global_batch(
    queries: Tensor, keys: Tensor | GatheredKeys, valid: Tensor | None, duplicates: Tensor | None, chunk: int, group: Group
) -> _GlobalBatch:
    if chunk < 1:
        raise ValueError(f"`chunk` is the number of rows of logits held at a time; it must be at least 1, not {chunk}.")
    if isinstance(keys, GatheredKeys):
        if valid is not None or duplicates is not None or group is not None:
            raise ValueError("`valid`, `duplicates` and `group` belong to gather_keys where keys were sent by it.")
    else:
        _check_fit(queries, keys)
        keys = gather_keys(keys, valid=valid, duplicates=duplicates, group=group)
    everybody, labels = keys.wait()
    _check_fit(queries, everybody[: keys.rows])
    rank, world_size = rank_and_world_size(keys.group)
    return _GlobalBatch(everybody, labels, rank * keys.rows, world_size, chunk, keys.group)


def _check_fit(queries: Tensor, keys: Tensor) -> None:
    if queries.ndim != 2 or queries.shape != keys.shape:
        raise ValueError(
            f"Queries and keys must both be [rows, width]; found {list(queries.shape)} and {list(keys.shape)}. "
            "The projection head and its target (CLIP or ArcFace) must have one width."
        )


def _check(keys: Tensor, valid: Tensor | None, duplicates: Tensor | None) -> None:
    if len(keys) == 0:
        raise ValueError("A contrastive loss needs at least one row per rank; this rank's batch is empty.")
    if keys.requires_grad:
        raise ValueError("The keys of this loss are frozen and get no gradient; compute them under no_grad, or detach() them.")
    for name, tensor, dtype in (("valid", valid, torch.bool), ("duplicates", duplicates, torch.int64)):
        if tensor is not None and (tensor.shape != keys.shape[:1] or tensor.dtype != dtype):
            raise ValueError(
                f"`{name}` must be {dtype} of shape [{len(keys)}], one entry per row; found {tensor.dtype} {list(tensor.shape)}."
            )


def _blocks(
    queries: Tensor, scale: Tensor, keys: Tensor, labels: Tensor | None, batch: _GlobalBatch
) -> Iterator[tuple[int, Tensor]]:
    """(first row, logits [<= chunk, N]) of this rank's rows, block by block; -inf where a pair takes no part."""
    transposed = keys.t()
    for start in range(0, len(queries), batch.chunk):
        logits = (queries[start : start + batch.chunk] * scale) @ transposed
        if labels is not None:
            first = batch.first + start
            own = labels[first : first + len(logits), None]
            excluded = (own == labels) & (own >= 0)
            excluded.diagonal(first).fill_(False)  # a row is its own positive, not its own duplicate
            excluded |= (own == LEFT_OUT) | (labels == LEFT_OUT)
            logits.masked_fill_(excluded, -torch.inf)
        yield start, logits


def _in_full_precision(*tensors: Tensor) -> list[Tensor]:
    dtype = torch.promote_types(tensors[0].dtype, torch.float32)
    return [tensor.to(dtype) for tensor in tensors]


class _InfoNCE(torch.autograd.Function):
    """L = 1 / 2n * sum_i [row_i + column_i - 2 z_ii], with z_ij = scale * q_i . k_j, row_i = log sum_j e^z_ij over
    all columns and column_i = log sum_j e^z_ji over all ranks' rows; n rows take part. Hence dL/dz_ij = 1 / 2n *
    [e^(z_ij - row_i) + e^(z_ij - column_j) - 2 (i = j)], which needs no other rank once column_j is known.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, scale: Tensor, keys: Tensor, labels: Tensor | None, batch: _GlobalBatch) -> Tensor:
        with autocast_mode.autocast(queries.device.type, enabled=False):
            q, k, s = _in_full_precision(queries, keys, scale)
            columns = q.new_full((len(k),), -torch.inf)
            rows, positives = [], []
            for start, logits in _blocks(q, s, k, labels, batch):
                rows.append(logits.logsumexp(1))
                positives.append(logits.diagonal(batch.first + start).clone())
                columns = torch.logaddexp(columns, logits.logsumexp(0))
            columns = _over_ranks(columns, batch)
            rows, count = torch.cat(rows), batch.count()
            valid = batch.own_valid(len(q))
            own = columns[batch.first : batch.first + len(q)]
            total = (rows + own - 2 * torch.cat(positives)).masked_fill(~valid, 0).sum()
            # Where nothing takes part both are -inf, as are all logits there: +inf makes the softmax 0 and not undefined.
            rows = rows.masked_fill(rows == -torch.inf, torch.inf)
            columns = columns.masked_fill(columns == -torch.inf, torch.inf)
            ctx.save_for_backward(queries, scale, keys, labels, rows, columns, count)
            ctx.batch = batch
            return batch.all_reduce(total, dist.ReduceOp.SUM) / (2 * count)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        queries, scale, keys, labels, rows, columns, count = ctx.saved_tensors
        batch: _GlobalBatch = ctx.batch
        with autocast_mode.autocast(queries.device.type, enabled=False):
            q, k, s = _in_full_precision(queries, keys, scale)
            valid = batch.own_valid(len(q)).to(q)
            pulls = torch.empty_like(q)  # sum_j of dL/dz_ij * k_j, up to constant factors
            for start, logits in _blocks(q, s, k, labels, batch):
                block = slice(start, start + len(logits))
                slope = (logits - rows[block, None]).exp_()
                slope += logits.sub_(columns).exp_()
                slope.diagonal(batch.first + start).sub_(2 * valid[block])
                torch.mm(slope, k, out=pulls[block])
            factor = grad_outputs[0] * batch.world_size / (2 * count)
            return (pulls * (s * factor)).to(queries.dtype), ((q * pulls).sum() * factor).to(scale.dtype), None, None, None


class _Sigmoid(torch.autograd.Function):
    """L = 1 / n * [sum_i softplus(-z_ii) + sum_{i != j} softplus(z_ij)], so dL/dz_ij = 1 / n * [sigmoid(z_ij) - (i =
    j)]: a row's gradient needs no other row of queries, hence no column term."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, scale: Tensor, bias: Tensor, keys: Tensor, labels: Tensor | None, batch: _GlobalBatch
    ) -> Tensor:
        with autocast_mode.autocast(queries.device.type, enabled=False):
            q, k, s, offset = _in_full_precision(queries, keys, scale, bias)
            valid, count = batch.own_valid(len(q)), batch.count()
            total = q.new_zeros(())
            for start, logits in _blocks(q, s, k, labels, batch):
                logits += offset
                positives = logits.diagonal(batch.first + start).masked_fill(~valid[start : start + len(logits)], 0)
                # softplus(z) = -log sigmoid(-z) for negatives; softplus(-z) = softplus(z) - z makes it the positive's.
                total -= F.logsigmoid(-logits).sum() + positives.sum()
            ctx.save_for_backward(queries, scale, bias, keys, labels, count)
            ctx.batch = batch
            return batch.all_reduce(total, dist.ReduceOp.SUM) / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        queries, scale, bias, keys, labels, count = ctx.saved_tensors
        batch: _GlobalBatch = ctx.batch
        with autocast_mode.autocast(queries.device.type, enabled=False):
            q, k, s, offset = _in_full_precision(queries, keys, scale, bias)
            valid = batch.own_valid(len(q)).to(q)
            pulls, lift = torch.empty_like(q), q.new_zeros(())
            for start, logits in _blocks(q, s, k, labels, batch):
                block = slice(start, start + len(logits))
                slope = logits.add_(offset).sigmoid_()
                slope.diagonal(batch.first + start).sub_(valid[block])
                torch.mm(slope, k, out=pulls[block])
                lift += slope.sum()
            factor = grad_outputs[0] * batch.world_size / count
            return (
                (pulls * (s * factor)).to(queries.dtype),
                ((q * pulls).sum() * factor).to(scale.dtype),
                (lift * factor).to(bias.dtype),
                None,
                None,
                None,
            )


def _over_ranks(columns: Tensor, batch: _GlobalBatch) -> Tensor:
    """Each rank's log-sum-exp of every column [N] -> that over all ranks: the maximum first, then the sum below it."""
    highest = batch.all_reduce(columns.clone(), dist.ReduceOp.MAX)
    highest = highest.masked_fill(highest == -torch.inf, 0)
    return highest + batch.all_reduce((columns - highest).exp(), dist.ReduceOp.SUM).log()
