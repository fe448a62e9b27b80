"""The contrastive losses: gradients against plain autograd over the whole batch, on 1, 2 and 4 ranks; memory.

Bad input.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.amp import autocast_mode
from torch.utils._python_dispatch import TorchDispatchMode

from train.pretrain import contrastive
from train.pretrain.contrastive import frozen_key_info_nce, sigmoid_loss

ROWS, INPUTS, WIDTH = 12, 9, 7
WORLDS = [1, 2, 4]
KINDS = ["infonce", "siglip"]
MASKS = ["none", "valid", "duplicates", "both", "last rank all guided", "first rank only", "all guided", "bf16 keys"]

# What a wrong implementation does, as a change of this one's source.
MUTANTS = {
    "no column term": ("slope += logits.sub_(columns).exp_()", "slope *= 2"),
    "columns of this rank only": ("columns = _over_ranks(columns, batch)", "pass"),
    "no factor W": ("grad_outputs[0] * batch.world_size", "grad_outputs[0]"),
    "guided rows stay": ("(own == LEFT_OUT) | (labels == LEFT_OUT)", "False"),
    "duplicates stay negatives": ("(own == labels) & (own >= 0)", "(own == labels) & False"),
}


class Case(NamedTuple):
    """One comparison; `mutant` None is the module as it is."""

    mutant: str | None
    kind: str
    masks: str
    chunk: int


class Problem(NamedTuple):
    """A whole batch: a linear model's inputs and weight, frozen keys, and masks."""

    inputs: Tensor
    weight: Tensor
    keys: Tensor
    valid: Tensor | None
    duplicates: Tensor | None


def problem(masks: str) -> Problem:
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(n, m, generator=generator).double() for n, m in ((ROWS, INPUTS), (INPUTS, WIDTH), (ROWS, WIDTH))]
    valid = torch.tensor([1, 1, 0, 1, 1, 1, 0, 1, 1, 0, 1, 1]).bool()
    labels = torch.tensor([3, -1, 3, 5, -1, 3, 5, -1, 5, 8, 8, 0])
    by_name = {
        "none": (None, None),
        "valid": (valid, None),
        "duplicates": (None, labels),
        "both": (valid, labels),
        "last rank all guided": (torch.arange(ROWS) < ROWS * 3 // 4, labels),
        "first rank only": (torch.arange(ROWS) < ROWS // 4, None),
        "all guided": (torch.zeros(ROWS).bool(), labels),
        "bf16 keys": (valid, None),
    }
    keys = F.normalize(draw[2], dim=-1).to(torch.bfloat16 if masks == "bf16 keys" else torch.float64)
    return Problem(draw[0], draw[1], keys, *by_name[masks])


def solve(module: Any, kind: str, masks: str, chunk: int, group: Any) -> list[Tensor]:
    """The loss and the gradients of weight, log scale and bias as DistributedDataParallel would average them."""
    whole = problem(masks)
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    own = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
    weight, log_scale, bias = (x.requires_grad_() for x in (whole.weight.clone(), *constants()))
    queries = F.normalize(whole.inputs[own] @ weight, dim=-1)
    valid, duplicates = (None if x is None else x[own] for x in (whole.valid, whole.duplicates))
    options = {"valid": valid, "duplicates": duplicates, "chunk": chunk, "group": group}
    if kind == "infonce":
        loss = module.frozen_key_info_nce(queries, whole.keys[own], log_scale.exp(), **options)
    else:
        loss = module.sigmoid_loss(queries, whole.keys[own], log_scale.exp(), bias, **options)
    loss.backward()
    gradients = [torch.zeros_like(x) if x.grad is None else x.grad for x in (weight, log_scale, bias)]
    for gradient in gradients:
        dist.all_reduce(gradient, group=group)
    return [loss.detach(), *(gradient / world for gradient in gradients)]


def constants() -> tuple[Tensor, Tensor]:
    return torch.tensor(3.0, dtype=torch.float64), torch.tensor(-2.0, dtype=torch.float64)


def reference(kind: str, masks: str) -> list[Tensor]:
    """The same by plain autograd through the full matrix of logits, in one process."""
    whole = problem(masks)
    weight, log_scale, bias = (x.requires_grad_() for x in (whole.weight.clone(), *constants()))
    loss = full_matrix_loss(kind, F.normalize(whole.inputs @ weight, dim=-1), whole, log_scale.exp(), bias)
    loss.backward()
    return [loss.detach(), *(torch.zeros_like(x) if x.grad is None else x.grad for x in (weight, log_scale, bias))]


def full_matrix_loss(kind: str, queries: Tensor, whole: Problem, scale: Tensor, bias: Tensor) -> Tensor:
    valid = torch.ones(ROWS).bool() if whole.valid is None else whole.valid
    labels = torch.full((ROWS,), -1) if whole.duplicates is None else whole.duplicates
    queries, keys, labels = queries[valid], whole.keys[valid].double(), labels[valid]
    if len(queries) == 0:
        return (queries * 0).sum()
    same = (labels[:, None] == labels) & (labels >= 0)
    ignored = same & ~torch.eye(len(queries)).bool()
    logits = scale * queries @ keys.T
    if kind == "siglip":
        signs = 2 * torch.eye(len(queries)).double() - 1
        return -F.logsigmoid(signs * (logits + bias))[~ignored].sum() / len(queries)
    logits = logits.masked_fill(ignored, -math.inf)
    rows = torch.arange(len(queries))
    return (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, rows)) / 2


def error(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest relative error among loss and gradients (absolute where the expected is 0)."""
    errors = [float((f - e).norm() / (e.norm() or 1)) for f, e in zip(found, expected, strict=True)]
    return math.inf if any(map(math.isnan, errors)) else max(errors)


def mutant(change: tuple[str, str] | None) -> Any:
    """The module with one change of its source."""
    if change is None:
        return contrastive
    source = Path(contrastive.__file__).read_text()
    assert source.count(change[0]) >= 1, f"The source no longer has what this mutant changes: {change[0]}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutant.py"
        path.write_text(source.replace(*change))
        spec = importlib.util.spec_from_file_location("mutant", path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules["mutant"] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
    return module


def all_cases(rank: int, _: int, changes: dict[str, tuple[str, str]]) -> dict[int, dict[Case, list[Tensor]]]:
    """World size -> every case -> loss and gradients, by this module and by its mutants.

    The first ranks make smaller worlds.
    """
    results: dict[int, dict[Case, list[Tensor]]] = {}
    for world in WORLDS:
        group = dist.new_group(list(range(world)))
        if rank >= world:
            continue
        results[world] = {}
        cases = [Case(None, *options) for options in itertools.product(KINDS, MASKS, (1024, 2))]
        cases += [Case(name, "infonce", masks, 2) for name in changes for masks in ("none", "both")]
        for case in cases:
            module = mutant(changes[case.mutant] if case.mutant else None)
            results[world][case] = solve(module, case.kind, case.masks, case.chunk, group)
    return results


@pytest.fixture(scope="module")
def all_solved(run_ranks: Callable) -> list[dict[int, dict[Case, list[Tensor]]]]:
    return run_ranks(all_cases, max(WORLDS), MUTANTS)


@pytest.fixture(params=WORLDS)
def solved(request: pytest.FixtureRequest, all_solved: list) -> tuple[int, list[dict[Case, list[Tensor]]]]:
    """The world size, and each of its ranks' results."""
    return request.param, [results[request.param] for results in all_solved[: request.param]]


def test_loss_and_gradients_are_those_of_plain_autograd_over_all_ranks(solved: tuple[int, list[dict]]) -> None:
    world, by_rank = solved
    assert len(by_rank) == world
    for results in by_rank:
        own = [case for case in results if case.mutant is None]
        assert len(own) == len(KINDS) * len(MASKS) * 2
        for case in own:
            assert error(results[case], reference(case.kind, case.masks)) <= 1e-12, case


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_implementations_fail_the_same_comparison(solved: tuple[int, list[dict]], name: str) -> None:
    world, (results, *_) = solved
    cases = [case for case in results if case.mutant == name]
    worst = max(error(results[case], reference(case.kind, case.masks)) for case in cases)
    if world == 1 and name in ("columns of this rank only", "no factor W"):
        assert worst <= 1e-12  # one rank cannot tell
    else:
        assert worst > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_no_valid_row_anywhere_is_no_loss_and_no_gradient(solved: tuple[int, list[dict]], kind: str) -> None:
    for result in solved[1][0][Case(None, kind, "all guided", 2)]:
        assert not result.any()


def rows(count: int, width: int = 16, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    queries, keys = (F.normalize(torch.randn(count, width, generator=generator), dim=-1).to(dtype) for _ in range(2))
    return queries.requires_grad_(), keys


def gradient(queries: Tensor, loss: Tensor) -> Tensor:
    return torch.autograd.grad(loss, queries)[0].double()


@pytest.mark.parametrize("autocast", [False, True])
def test_bf16_features_have_fp32_logits(autocast: bool) -> None:
    queries, keys = rows(64, dtype=torch.bfloat16)
    scale = torch.tensor(100.0)
    exact = queries.detach().double().requires_grad_()
    expected = frozen_key_info_nce(exact, keys.double(), scale.double())
    with autocast_mode.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = frozen_key_info_nce(queries, keys, scale)
        off = gradient(queries, found) - gradient(exact, expected)
    assert found.dtype == torch.float32
    assert abs(found.item() - expected.item()) <= 1e-5 * expected.item()
    assert (
        off.norm() <= 4e-3 * gradient(exact, frozen_key_info_nce(exact, keys.double(), scale.double())).norm()
    )  # bf16's last bit


def test_large_scales_do_not_overflow() -> None:
    queries, keys = rows(32)
    loss = frozen_key_info_nce(queries, -queries.detach(), torch.tensor(1000.0))
    assert loss.isfinite() and gradient(queries, loss).isfinite().all()
    assert sigmoid_loss(queries, keys, torch.tensor(1000.0), torch.tensor(-10.0)).isfinite()


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = result if isinstance(result, (tuple, list)) else [result]
        self.elements = max([self.elements, *(x.numel() for x in made if isinstance(x, Tensor))])
        return result


def memory(loss_of: Callable[[Tensor, Tensor], Tensor], count: int) -> tuple[int, int]:
    """Elements saved for the backward pass, and elements of the largest tensor that ever exists."""
    queries, keys = rows(count)
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with Largest() as largest:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = loss_of(queries, keys)
        loss.backward()
    return sum(saved.values()), largest.elements


@pytest.mark.parametrize("kind", KINDS)
def test_memory_grows_as_batch_times_chunk(kind: str) -> None:
    chunk, width = 8, 16

    def ours(queries: Tensor, keys: Tensor) -> Tensor:
        labels = torch.arange(len(keys)) // 2
        scale, bias = torch.tensor(20.0, requires_grad=True), torch.tensor(-10.0, requires_grad=True)
        if kind == "infonce":
            return frozen_key_info_nce(queries, keys, scale, duplicates=labels, chunk=chunk)
        return sigmoid_loss(queries, keys, scale, bias, duplicates=labels, chunk=chunk)

    def python_loop(queries: Tensor, keys: Tensor) -> Tensor:
        return torch.stack([(part @ keys.t()).logsumexp(1).sum() for part in queries.split(chunk)]).sum()

    for count in (64, 128, 256):
        saved, largest = memory(ours, count)
        assert saved <= count * (2 * width + 4) + 8  # queries, keys, labels, two log-sum-exps, scalars
        assert largest <= count * max(chunk, width)
    assert memory(python_loop, 256)[0] >= 256 * 256  # the count would notice


def test_bad_input_is_named() -> None:
    queries, keys = rows(4)
    scale = torch.tensor(1.0)
    with pytest.raises(ValueError, match=r"\[4, 16\] and \[4, 8\]"):
        frozen_key_info_nce(queries, keys[:, :8], scale)
    with pytest.raises(ValueError, match="this rank's batch is empty"):
        frozen_key_info_nce(queries[:0], keys[:0], scale)
    with pytest.raises(ValueError, match="detach"):
        frozen_key_info_nce(queries, queries, scale)
    with pytest.raises(ValueError, match=r"`valid` must be torch.bool of shape \[4\].*found torch.float32 \[4\]"):
        frozen_key_info_nce(queries, keys, scale, valid=torch.ones(4))
    with pytest.raises(ValueError, match=r"`duplicates` must be torch.int64 of shape \[4\].*found torch.int64 \[3\]"):
        sigmoid_loss(queries, keys, scale, scale, duplicates=torch.ones(3).long())
    with pytest.raises(ValueError, match="at least 1, not 0"):
        frozen_key_info_nce(queries, keys, scale, chunk=0)
