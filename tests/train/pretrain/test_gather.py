"""Keys that travel while the encoder computes: the same numbers, and when ranks talk to each other."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from train.pretrain.contrastive import frozen_key_info_nce, gather_keys, sigmoid_loss

KINDS = ["infonce", "siglip"]
GATHER = "all_gather_single" if hasattr(dist, "all_gather_single") else "all_gather_into_tensor"


def rows(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    queries, keys = (F.normalize(torch.randn(count, 16, generator=generator), dim=-1) for _ in range(2))
    return queries.requires_grad_(), keys


@contextmanager
def noted_collectives() -> Iterator[list[tuple[str, bool]]]:
    """The collectives that are called, and whether somebody waits for them there and then."""
    noted: list[tuple[str, bool]] = []
    originals = {name: getattr(dist, name) for name in ("all_reduce", "all_gather", GATHER)}

    def noting(name: str) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            noted.append((name, not kwargs.get("async_op", False)))
            return originals[name](*args, **kwargs)

        return call

    try:
        for name in originals:
            setattr(dist, name, noting(name))
        yield noted
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)


def sent_early(rank: int, world: int) -> dict[str, Any]:
    """For both losses, with keys that travel early: results, those of a
    plain call, and collectives called on the way."""
    found: dict[str, Any] = {}
    labels = torch.tensor([0, 1, 0, -1, -7, -7, 2, 3])[rank * 4 : rank * 4 + 4]
    valid = torch.tensor([1, 1, 1, 0, 1, 1, 1, 1]).bool()[rank * 4 : rank * 4 + 4]
    for kind in KINDS:
        queries, keys = rows(4, seed=rank)
        call = functools.partial(sigmoid_loss, bias=torch.tensor(-3.0)) if kind == "siglip" else frozen_key_info_nce
        with noted_collectives() as first:
            sent = gather_keys(keys, valid=valid, duplicates=labels)
        with noted_collectives() as second:
            loss = call(queries, sent, scale=torch.tensor(5.0))
        with noted_collectives() as third:
            (pull,) = torch.autograd.grad(loss, queries)
        plain = call(queries, keys, scale=torch.tensor(5.0), valid=valid, duplicates=labels)
        apart = call(queries, keys, scale=torch.tensor(5.0), valid=valid, duplicates=labels.where(labels >= 0, -1))
        expected = (plain.detach(), torch.autograd.grad(plain, queries)[0])
        found[kind] = ((loss.detach(), pull), expected, apart.detach(), [list(x) for x in (first, second, third)])
    return found


def test_keys_sent_early_change_no_bit_and_backward_talks_to_nobody(run_ranks: Callable) -> None:
    for by_kind in run_ranks(sent_early, 2):
        for kind, (found, expected, apart, (first, second, third)) in by_kind.items():
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
            assert found[0] == apart  # any negative label is equal to nothing, and leaves nobody out
            assert first == [(GATHER, False)] * 2  # keys and labels
            assert second == [("all_reduce", True)] * (3 if kind == "infonce" else 1)
            assert third == []


def test_keys_sent_early_bring_their_masks_along() -> None:
    queries, keys = rows(4)
    sent = gather_keys(keys, valid=torch.tensor([True, True, False, True]))
    expected = frozen_key_info_nce(queries, keys, torch.tensor(3.0), valid=torch.tensor([True, True, False, True]))
    for _ in range(2):  # several losses may share them
        assert torch.equal(frozen_key_info_nce(queries, sent, torch.tensor(3.0)), expected)
    with pytest.raises(ValueError, match="belong to gather_keys"):
        frozen_key_info_nce(queries, sent, torch.tensor(3.0), valid=torch.ones(4).bool())
    with pytest.raises(ValueError, match=r"\[3, 16\] and \[4, 16\]"):
        frozen_key_info_nce(queries[:3], sent, torch.tensor(3.0))
