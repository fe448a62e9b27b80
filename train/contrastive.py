"""Contrastive losses whose keys are frozen, over the batch of all ranks (paper, equation 3).

All three targets of FaceCLIP come from frozen towers, so only queries need a gradient. That makes the loss cheap: keys are
gathered once, logits are computed in blocks of rows and thrown away, what a row needs of the other ranks' rows is one number
per column (its log-sum-exp), and the backward pass recomputes the blocks without talking to anybody.

b rows per rank (the same number on all ranks), W ranks, N = W * b rows in the global batch, d = width of queries and keys.
Values returned are the global mean on every rank; gradients carry a factor W, so that the average over ranks which
DistributedDataParallel takes is the gradient of the global mean, exactly. Leave TF32 off, as it is by default: it would round
the fp32 features to 10 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.amp import autocast_mode
from torch.autograd.function import once_differentiable

UNIQUE = -1  # a label equal to no other row's
LEFT_OUT = -2  # how a row that takes no part travels in the gathered labels


def rank_and_world(group: dist.ProcessGroup | None = None) -> tuple[int, int]:
    """This process's place in `group` (None: all ranks) and the group's size; (0, 1) where nothing is distributed."""
    if not dist.is_available() or not dist.is_initialized():
        return 0, 1
    return dist.get_rank(group), dist.get_world_size(group)


def frozen_key_info_nce(
    queries: Tensor,
    keys: Tensor,
    scale: Tensor,
    *,
    valid: Tensor | None = None,
    duplicates: Tensor | None = None,
    chunk: int = 1024,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """The symmetric InfoNCE loss (paper, equation 3) of `queries` [b, d] against `keys` [b, d], row by row, over all ranks' rows.

    `queries` and `keys` are of unit length; `scale`, a scalar, multiplies their products (1 / temperature). `valid` [b] bool:
    rows that take part; the others neither have a loss nor are anybody's negatives. `duplicates` [b] int64: rows with an equal
    label >= 0 are not each other's negatives; -1 is equal to nothing. Ranks must agree on whether these two are given.
    `chunk` rows of logits exist at a time: memory is O(N * chunk). Keys travel in the dtype they have; logits are fp32 (fp64
    for fp64 queries), under autocast, too. No valid row anywhere makes the loss 0. Scalar; see the module on gradients.
    Raises ValueError for keys that want a gradient, shapes that do not fit, or labels of another dtype.
    """
    batch = _gather(queries, keys, valid, duplicates, chunk, group)
    return _InfoNCE.apply(queries, scale, batch.keys, batch.labels, batch)  # pyright: ignore[reportReturnType]


def sigmoid_loss(
    queries: Tensor,
    keys: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    valid: Tensor | None = None,
    duplicates: Tensor | None = None,
    chunk: int = 1024,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """SigLIP's loss (arXiv 2303.15343, equation 1): every pair is a yes-or-no question with the logit `scale * q . k + bias`.

    As `frozen_key_info_nce` in everything else; the sum over pairs is divided by the number of valid rows.
    """
    batch = _gather(queries, keys, valid, duplicates, chunk, group)
    return _Sigmoid.apply(queries, scale, bias, batch.keys, batch.labels, batch)  # pyright: ignore[reportReturnType]


@dataclass(frozen=True, eq=False)
class _GlobalBatch:
    """All ranks' keys [N, d] and labels [N] (None: every row is valid and unique), and where this rank's rows lie in them."""

    keys: Tensor
    labels: Tensor | None
    first: int
    world: int
    chunk: int
    group: dist.ProcessGroup | None

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
        if self.world > 1:
            dist.all_reduce(tensor, op, group=self.group)
        return tensor


def _gather(
    queries: Tensor, keys: Tensor, valid: Tensor | None, duplicates: Tensor | None, chunk: int, group: dist.ProcessGroup | None
) -> _GlobalBatch:
    _check(queries, keys, valid, duplicates, chunk)
    rank, world = rank_and_world(group)
    labels = None
    if valid is not None or duplicates is not None:
        labels = torch.full((len(keys),), UNIQUE, device=keys.device) if duplicates is None else duplicates
        labels = labels if valid is None else labels.masked_fill(~valid, LEFT_OUT)
    if world > 1:
        keys = _all_gather(keys, world, group)
        labels = None if labels is None else _all_gather(labels, world, group)
    return _GlobalBatch(keys, labels, rank * len(queries), world, chunk, group)


def _all_gather(tensor: Tensor, world: int, group: dist.ProcessGroup | None) -> Tensor:
    gathered = tensor.new_empty(world * len(tensor), *tensor.shape[1:])
    dist.all_gather(list(gathered.chunk(world)), tensor.contiguous(), group=group)
    return gathered


def _check(queries: Tensor, keys: Tensor, valid: Tensor | None, duplicates: Tensor | None, chunk: int) -> None:
    if queries.ndim != 2 or queries.shape != keys.shape:
        raise ValueError(
            f"Queries and keys must both be [rows, width]; found {list(queries.shape)} and {list(keys.shape)}. "
            "The projection head and its target (CLIP or ArcFace) must have one width."
        )
    if len(queries) == 0:
        raise ValueError("A contrastive loss needs at least one row per rank; this rank's batch is empty.")
    if keys.requires_grad:
        raise ValueError("The keys of this loss are frozen and get no gradient; compute them under no_grad, or detach() them.")
    for name, tensor, dtype in (("valid", valid, torch.bool), ("duplicates", duplicates, torch.int64)):
        if tensor is not None and (tensor.shape != queries.shape[:1] or tensor.dtype != dtype):
            raise ValueError(
                f"`{name}` must be {dtype} of shape [{len(queries)}], one entry per row; "
                f"found {tensor.dtype} {list(tensor.shape)}."
            )
    if chunk < 1:
        raise ValueError(f"`chunk` is the number of rows of logits held at a time; it must be at least 1, not {chunk}.")


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
    """L = 1 / 2n * sum_i [row_i + column_i - 2 z_ii], with z_ij = scale * q_i . k_j, row_i = log sum_j e^z_ij over all columns
    and column_i = log sum_j e^z_ji over all ranks' rows; n rows take part. Hence
    dL/dz_ij = 1 / 2n * [e^(z_ij - row_i) + e^(z_ij - column_j) - 2 (i = j)], which needs no other rank once column_j is known.
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
            factor = grad_outputs[0] * batch.world / (2 * count)
            return (pulls * (s * factor)).to(queries.dtype), ((q * pulls).sum() * factor).to(scale.dtype), None, None, None


class _Sigmoid(torch.autograd.Function):
    """L = 1 / n * [sum_i softplus(-z_ii) + sum_{i != j} softplus(z_ij)], so dL/dz_ij = 1 / n * [sigmoid(z_ij) - (i = j)]:
    a row's gradient needs no other row of queries, hence no column term."""

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
            factor = grad_outputs[0] * batch.world / count
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
