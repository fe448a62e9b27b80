"""The forward process against diffusers, and the options that are off by default."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn

from train.diffusion import NoiseSchedule
from train.ema import MovingAverage
from train.optim import KahanAdamW

SDXL = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.fixture
def rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(6, 4, 3, 5, generator=generator) for _ in range(2))
    return latents, noise, torch.tensor([0, 1, 250, 500, 900, 999])


@pytest.mark.parametrize("terminal", [False, True])
def test_noising_and_targets_are_those_of_diffusers(rows: tuple, terminal: bool) -> None:
    latents, noise, timesteps = rows
    reference = DDPMScheduler(**SDXL, rescale_betas_zero_snr=terminal)
    ours = NoiseSchedule.sdxl("v", zero_terminal_snr=terminal)
    torch.testing.assert_close(ours.add_noise(*rows), reference.add_noise(*rows), rtol=1e-4, atol=2e-3)
    torch.testing.assert_close(ours.target(*rows), reference.get_velocity(*rows), rtol=1e-4, atol=2e-3)
    assert NoiseSchedule.sdxl().target(latents, noise, timesteps) is noise
    assert (ours.alphas_cumprod[-1] == 0) == terminal


def test_a_perfect_prediction_costs_nothing_and_rows_are_apart(rows: tuple) -> None:
    latents, noise, timesteps = rows
    schedule = NoiseSchedule.sdxl()
    predicted = noise.clone()
    predicted[2] += 2
    assert schedule.losses(predicted, latents, noise, timesteps).tolist() == pytest.approx([0, 0, 4, 0, 0, 0])


def test_min_snr_caps_the_weight_of_easy_timesteps_and_spares_hard_ones(rows: tuple) -> None:
    timesteps = rows[2]
    schedule = NoiseSchedule.sdxl(min_snr=5.0)
    snr = schedule.alphas_cumprod[timesteps] / (1 - schedule.alphas_cumprod[timesteps])
    for prediction, power in (("epsilon", snr), ("v", snr + 1)):
        weights = NoiseSchedule.sdxl(prediction, min_snr=5.0).weights(timesteps)
        torch.testing.assert_close(weights * power, snr.clamp(max=5.0))
    assert torch.equal(NoiseSchedule.sdxl().weights(timesteps), torch.ones(6))


def test_the_moving_average_follows_in_fp32_what_bf16_weights_cannot_show() -> None:
    weight = nn.Parameter(torch.ones(64, dtype=torch.bfloat16))
    optimizer = KahanAdamW([weight], lr=1e-4, weight_decay=0.0)
    average = MovingAverage({"w": weight}, decay=0.9)
    for _ in range(20):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        average.update(optimizer)
    exact = torch.tensor(1.0)
    expected = torch.tensor(1.0)
    for _ in range(20):
        exact = exact - 1e-4
        expected = torch.lerp(expected, exact, 0.1)
    assert average.shadow["w"].dtype == torch.float32
    torch.testing.assert_close(average.shadow["w"], expected.expand(64), rtol=0, atol=2e-5)
    assert (average.shadow["w"] < 1 - 5e-4).all()
