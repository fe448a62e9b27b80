"""The moving average of the weights: exact in fp32 under bf16 weights, and free of the start after few updates."""

from __future__ import annotations

import pytest
import torch
from diffusers.training_utils import EMAModel
from torch import nn

from train.run.ema import MovingAverage
from train.run.optim import KahanAdamW


def average_of(weight: nn.Parameter, decay: float, updates: int) -> MovingAverage:
    """The average after `updates` updates by 1e-4 each."""
    optimizer = KahanAdamW([weight], lr=1e-4, weight_decay=0.0)
    average = MovingAverage({"w": weight}, decay)
    for _ in range(updates):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        average.update(optimizer)
    return average


def test_it_follows_in_fp32_what_bf16_weights_cannot_show() -> None:
    average = average_of(nn.Parameter(torch.ones(64, dtype=torch.bfloat16)), decay=0.9, updates=20)
    exact = expected = torch.tensor(1.0)
    for update in range(1, 21):
        exact = exact - 1e-4
        expected = torch.lerp(expected, exact, 1 - (min(0.9, update / (9 + update)) if update > 1 else 0.0))
    assert average.shadow["w"].dtype == torch.float32
    torch.testing.assert_close(average.shadow["w"], expected.expand(64), rtol=0, atol=2e-5)
    assert (average.shadow["w"] < 1 - 1e-3).all()


@pytest.mark.parametrize("decay", [0.9, 0.9999])
def test_decays_are_those_of_diffusers(decay: float) -> None:
    reference = EMAModel([nn.Parameter(torch.zeros(1))], decay=decay)
    average = MovingAverage({}, decay)
    for updates in (1, 2, 3, 50, 81, 82, 1000, 89_990, 200_000):
        assert average.decay_after(updates) == pytest.approx(reference.get_decay(updates), rel=1e-12)


def test_a_short_run_forgets_its_start() -> None:
    """At the default decay: after 100 updates the average lies among the last ones, none of it where the run began."""
    weight = nn.Parameter(torch.ones(4))
    average = average_of(weight, decay=0.9999, updates=100)
    start, end = 1.0, weight[0].item()
    assert end < 1 - 0.009
    reached = (start - average.shadow["w"]) / (start - end)
    assert (reached > 0.85).all() and (reached < 1).all()


def test_a_resumed_run_goes_on_where_the_decay_was() -> None:
    weight = nn.Parameter(torch.zeros(4))
    average = MovingAverage({"w": weight}, 0.9999)
    optimizer = KahanAdamW([weight], lr=1e-2, weight_decay=0.0)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    optimizer.state[weight]["step"].fill_(500)  # as a checkpoint of step 500 has it
    average.update(optimizer)
    torch.testing.assert_close(average.shadow["w"], weight.detach() * 9 / 509)


def test_a_weight_that_had_no_gradient_stays_in_the_average_as_it_is() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.full((2,), 7.0))
    optimizer = KahanAdamW([used, unused])
    average = MovingAverage({"used": used, "unused": unused}, 0.9)
    used.grad = torch.ones(2)
    optimizer.step()
    average.update(optimizer)
    assert average.shadow["unused"].tolist() == [7, 7] and average.shadow["used"].tolist() == used.tolist()
