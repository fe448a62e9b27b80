"""GradCache: two passes with one graph at a time. Parity of the whole step is in test_parity.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from train.pretrain.gradcache import average_gradients, gradcache_step


def test_the_second_pass_draws_no_random_numbers_of_its_own() -> None:
    def encode(chunk: Tensor) -> tuple[Tensor, ...]:
        return (F.dropout(chunk * weight),)

    weight = torch.ones(3, requires_grad=True)
    chunks = list(torch.ones(4, 3).split(2))
    torch.manual_seed(0)
    for chunk in chunks:
        encode(chunk)
    expected = torch.rand(1)
    torch.manual_seed(0)
    gradcache_step(encode, chunks, lambda features: features[0].sum())
    assert torch.equal(torch.rand(1), expected)


def test_only_one_chunk_is_in_a_graph_at_a_time() -> None:
    """What is saved for the backward pass grows with the chunk, not with the batch."""
    weight = torch.ones(5, requires_grad=True)
    rows_saved: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        rows_saved.append(len(tensor))
        return tensor

    def encode(chunk: Tensor) -> tuple[Tensor, ...]:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            return ((chunk * weight).exp(),)

    gradcache_step(encode, list(torch.ones(12, 5).split(3)), lambda features: features[0].mean())
    assert rows_saved and max(rows_saved) <= 5


def test_features_that_the_loss_does_not_read_get_zero_gradients() -> None:
    """DistributedDataParallel would otherwise wait for them, as for the identity head when that term is off."""
    read, unread = (torch.ones(3, requires_grad=True) for _ in range(2))
    gradcache_step(lambda chunk: (chunk * read, chunk * unread), [torch.ones(2, 3)], lambda features: features[0].sum())
    assert read.grad is not None and read.grad.all()
    assert unread.grad is not None and not unread.grad.any()


def test_gradients_add_to_what_is_there() -> None:
    weight = torch.ones(3, requires_grad=True)
    for _ in range(2):
        gradcache_step(lambda chunk: (chunk * weight,), [torch.ones(2, 3)] * 2, lambda features: features[0].sum())
    assert weight.grad is not None and torch.equal(weight.grad, torch.full((3,), 8.0))


def test_bf16_gradients_of_many_chunks_are_as_good_as_those_of_two() -> None:
    torch.manual_seed(0)
    rows = torch.randn(256, 1000) + 0.1 * torch.randn(1000)
    start = torch.full((1000,), 3.0)  # a gradient that is there already counts

    def error(chunks: int, dtype: torch.dtype) -> float:
        weight = torch.ones(1000, dtype=dtype, requires_grad=True)
        weight.grad = start.to(dtype)
        encode = lambda chunk: ((chunk.to(dtype) * weight).float(),)  # noqa: E731
        gradcache_step(encode, list(rows.split(256 // chunks)), lambda features: features[0].sum(), parameters=[weight])
        assert weight.grad is not None and weight.grad.dtype == dtype
        exact = rows.to(dtype).double().sum(0) + 3
        return float((weight.grad.double() - exact).norm() / exact.norm())

    assert error(128, torch.bfloat16) < 1.5 * error(2, torch.bfloat16)
    assert error(128, torch.float32) < 1e-5


def averaged(rank: int, _: int) -> list[Tensor | None]:
    first, second = torch.zeros(2, requires_grad=True), torch.zeros((), requires_grad=True)
    first.grad = torch.tensor([1.0, 2.0]) * (rank + 1)
    if rank:
        second.grad = torch.tensor(6.0)
    average_gradients([first, second])
    return [first.grad, second.grad]


def test_a_missing_gradient_counts_as_zero_in_the_average(run_ranks: Callable) -> None:
    for first, second in run_ranks(averaged, 2):
        assert torch.equal(first, torch.tensor([1.5, 3.0])) and second == 3.0


def test_an_empty_batch_is_named() -> None:
    no_chunks: list[Tensor] = []
    with pytest.raises(ValueError, match="no chunk to encode: the rank's batch is empty"):
        gradcache_step(lambda chunk: (chunk,), no_chunks, lambda features: features[0].sum())
