"""KahanAdamW: bf16 weights against fp32 ones and against torch-optimi; decay of the second moment; resuming."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import optimi
import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.nn import Linear
from torch.optim import Optimizer

from train.run import optim
from train.run.optim import KahanAdamW

LR, STEPS = 2e-5, 300  # the paper's learning rate; after this many steps a weight can have moved by 0.006 at most


def start() -> Tensor:
    return 0.02 * torch.randn(4096, generator=torch.Generator().manual_seed(0))


def gradients(steps: int, seed: int = 1) -> list[Tensor]:
    """Noise around a direction per weight, as training gives them."""
    generator = torch.Generator().manual_seed(seed)
    drift = torch.randn(4096, generator=generator)
    return [drift + torch.randn(4096, generator=generator) for _ in range(steps)]


def train(make: Callable[[list[Tensor]], Optimizer], dtype: torch.dtype, steps: list[Tensor]) -> tuple[Tensor, Optimizer]:
    weight = nn.Parameter(start().bfloat16().to(dtype))
    optimizer = make([weight])
    for gradient in steps:
        weight.grad = gradient.bfloat16().to(dtype)
        optimizer.step()
    return weight.detach(), optimizer


def displacement(weight: Tensor) -> Tensor:
    return weight.double() - start().bfloat16().double()


def plain(params: list[Tensor]) -> Optimizer:
    return torch.optim.AdamW(params, lr=LR, weight_decay=0.01)


def oracle(params: list[Tensor]) -> Optimizer:
    options: dict[str, Any] = {"lr": LR, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
    return optimi.AdamW(params, kahan_sum=True, **options)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def exact() -> Tensor:
    """What 300 steps do to fp32 weights."""
    return displacement(train(plain, torch.float32, gradients(STEPS))[0])


def error(moved: Tensor, exact: Tensor) -> float:
    return float((moved - exact).norm() / exact.norm())


def test_plain_adamw_loses_the_updates_of_most_bf16_weights(exact: Tensor) -> None:
    moved = displacement(train(plain, torch.bfloat16, gradients(STEPS))[0])
    assert (moved != 0).double().mean() < 0.4
    assert not moved[start().bfloat16().abs() > 2**-7].any()
    assert error(moved, exact) > 0.5


def test_kahan_compensation_follows_fp32(exact: Tensor) -> None:
    weight, optimizer = train(KahanAdamW, torch.bfloat16, gradients(STEPS))
    moved = displacement(weight)
    assert (moved != 0).double().mean() > 0.99
    assert error(moved, exact) < 0.04  # bf16 stores no more
    (state,) = optimizer.state.values()
    assert error(moved + state["compensation"].double(), exact) < 0.005


def test_kahan_compensation_agrees_with_torch_optimi(exact: Tensor) -> None:
    weight, optimizer = train(KahanAdamW, torch.bfloat16, gradients(STEPS))
    other, oracles = train(oracle, torch.bfloat16, gradients(STEPS))
    (state,), (oracle_state,) = optimizer.state.values(), oracles.state.values()
    ours = displacement(weight) + state["compensation"].double()
    theirs = displacement(other) + oracle_state["kahan_comp"].double()
    assert error(ours, theirs) < 0.05
    assert error(ours, exact) < error(theirs, exact)


def test_steps_grow_again_after_gradients_drop_tenfold() -> None:
    """With a second moment in bf16 they stay too small forever: what 0.999 takes away is rounded back."""
    steps = gradients(STEPS) + [0.1 * gradient for gradient in gradients(4000, seed=2)]

    def last_root(optimizer: Optimizer) -> Tensor:
        (state,) = optimizer.state.values()
        return state["exp_avg_sq"].double().sqrt()

    exact = last_root(train(plain, torch.float32, steps)[1])
    torch.testing.assert_close(last_root(train(KahanAdamW, torch.bfloat16, steps)[1]), exact, rtol=5e-3, atol=0)
    stuck = last_root(train(oracle, torch.bfloat16, steps)[1])
    assert (stuck / exact).median() > 4


def test_fp32_weights_are_updated_as_by_torch() -> None:
    ours = train(lambda params: KahanAdamW(params, lr=1e-3, weight_decay=0.1), torch.float32, gradients(20))[0]
    theirs = train(lambda params: torch.optim.AdamW(params, lr=1e-3, weight_decay=0.1), torch.float32, gradients(20))[0]
    assert torch.equal(ours, theirs)


def test_weight_decay_reaches_bf16_weights() -> None:
    """Times 1 - lr * decay, 1e-5 less than 1 here, rounds to no change at all in bf16; compensated, it adds up."""
    weight = nn.Parameter(torch.full((8,), 0.5).bfloat16())
    optimizer = KahanAdamW([weight], lr=1e-4, weight_decay=0.1)
    for _ in range(1000):
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
    shrunk = 0.5 - weight.detach().double() - optimizer.state[weight]["compensation"].double()
    expected = torch.full((8,), 0.5 - 0.5 * (1 - 1e-5) ** 1000).double()
    torch.testing.assert_close(shrunk, expected, rtol=0.15, atol=0)  # the compensation is itself rounded to bf16


def test_defaults_are_the_papers() -> None:
    (group,) = KahanAdamW([nn.Parameter(torch.zeros(1))]).param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (2e-5, (0.9, 0.999), 0.01)


def test_state_takes_ten_bytes_per_bf16_weight_with_the_weight() -> None:
    _, optimizer = train(KahanAdamW, torch.bfloat16, gradients(1))
    (state,) = optimizer.state.values()
    dtypes = {name: tensor.dtype for name, tensor in state.items() if name != "step"}
    assert dtypes == {"exp_avg": torch.bfloat16, "exp_avg_sq": torch.float32, "compensation": torch.bfloat16}


def model() -> tuple[nn.Module, KahanAdamW]:
    """A mixed one: a bf16 layer, an fp32 layer, a frozen one, in two groups."""
    torch.manual_seed(0)
    net = nn.Sequential(Linear(6, 5).bfloat16(), Linear(5, 4), Linear(4, 3).requires_grad_(False))
    groups = [{"params": net[0].parameters()}, {"params": net[1].parameters(), "weight_decay": 0.0}]
    return net, KahanAdamW(groups, lr=1e-3)


def run(net: nn.Module, optimizer: KahanAdamW, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for param in net.parameters():
            param.grad = torch.randn(param.shape, generator=generator).to(param.dtype) if param.requires_grad else None
        optimizer.step()


def through_torch_save(optimizer: KahanAdamW, net: nn.Module, into: KahanAdamW, into_net: nn.Module) -> None:
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    into.load_state_dict(torch.load(file))


def through_distributed_checkpoint(optimizer: KahanAdamW, net: nn.Module, into: KahanAdamW, into_net: nn.Module) -> None:
    state = copy.deepcopy(get_optimizer_state_dict(net, optimizer))
    set_optimizer_state_dict(into_net, into, state)


@pytest.mark.parametrize("carry_over", [through_torch_save, through_distributed_checkpoint])
def test_resuming_changes_no_bit(carry_over: Callable[..., None]) -> None:
    net, optimizer = model()
    run(net, optimizer, range(5))
    resumed_net, resumed = model()
    resumed_net.load_state_dict(net.state_dict())
    carry_over(optimizer, net, resumed, resumed_net)
    assert resumed.state[resumed_net[0].weight]["exp_avg_sq"].dtype == torch.float32  # pyright: ignore[reportIndexIssue]
    run(net, optimizer, range(5, 10))
    run(resumed_net, resumed, range(5, 10))
    for ours, theirs in zip(net.parameters(), resumed_net.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_updating_in_slabs_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    net, optimizer = model()
    run(net, optimizer, range(5))
    monkeypatch.setattr(optim, "SLAB", 1)
    single, one_by_one = model()
    run(single, one_by_one, range(5))
    for ours, theirs in zip(net.parameters(), single.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_closure_gives_the_loss_and_the_gradient() -> None:
    weight = nn.Parameter(torch.ones(3).bfloat16())
    optimizer = KahanAdamW([weight], lr=0.1)

    def closure() -> float:
        optimizer.zero_grad()
        loss = weight.float().square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 3.0
    assert (weight < 1).all()


def test_bad_settings_are_named() -> None:
    weight = nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match=r"betas must lie in \[0, 1\); found .*betas=\(0.9, 1.0\)"):
        KahanAdamW([weight], betas=(0.9, 1.0))
    with pytest.raises(ValueError, match="found lr=-1"):
        KahanAdamW([weight], lr=-1)
    with pytest.raises(ValueError, match=r"bfloat16 or float32; found torch.float16 of shape \[2\]"):
        KahanAdamW([nn.Parameter(torch.zeros(2).half())])
