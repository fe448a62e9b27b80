"""The forward process against diffusers, and the options that are off by default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.schedulers.scheduling_ddpm import rescale_zero_terminal_snr
from diffusers.training_utils import compute_snr

from train.finetune_sdxl.diffusion import NoiseSchedule

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


@pytest.mark.parametrize("terminal", [False, True])
def test_the_schedule_is_diffusers_own(terminal: bool) -> None:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    betas = rescale_zero_terminal_snr(betas) if terminal else betas
    expected = (1 - betas).cumprod(0)
    found = NoiseSchedule.sdxl("v", zero_terminal_snr=terminal).alphas_cumprod
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-9)
    assert found[0] == pytest.approx(1 - 0.00085)  # the first step keeps its noise
    assert (found[-1] == 0) == terminal


def test_v_is_what_makes_both_signal_and_noise(rows: tuple) -> None:
    """x_0 = sqrt(a) x_t - sqrt(1 - a) v and noise = sqrt(1 - a) x_t + sqrt(a) v."""
    latents, noise, timesteps = rows
    schedule = NoiseSchedule.sdxl("v", zero_terminal_snr=True)
    noisy, v = schedule.add_noise(*rows), schedule.target(*rows)
    alphas = schedule.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    torch.testing.assert_close(alphas.sqrt() * noisy - (1 - alphas).sqrt() * v, latents, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close((1 - alphas).sqrt() * noisy + alphas.sqrt() * v, noise, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 5.0])
def test_losses_are_those_of_diffusers_training(rows: tuple, prediction: Any, gamma: float) -> None:
    """As diffusers' SDXL training computes them, min-SNR weights included (arXiv 2303.09556, section 3.4)."""
    latents, noise, timesteps = rows
    reference = DDPMScheduler(**SDXL, prediction_type="v_prediction" if prediction == "v" else "epsilon")
    target = reference.get_velocity(*rows) if prediction == "v" else noise
    predicted = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    expected = F.mse_loss(predicted, target, reduction="none").mean(dim=(1, 2, 3))
    if gamma:
        snr = compute_snr(reference, timesteps)
        expected = expected * torch.minimum(snr, torch.tensor(gamma)) / (snr + 1 if prediction == "v" else snr)
    found = NoiseSchedule.sdxl(prediction, min_snr=gamma).losses(predicted, latents, noise, timesteps)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)  # diffusers' schedule has fp32's errors


def test_places_of_a_picture_can_weigh_more_than_others(rows: tuple) -> None:
    latents, noise, timesteps = rows
    schedule = NoiseSchedule.sdxl("epsilon")
    predicted = noise.clone()
    predicted[..., 0, 0] += 1.0  # wrong by 1 at one place
    emphasis = torch.ones(len(latents), 1, *latents.shape[2:])
    plain = schedule.losses(predicted, latents, noise, timesteps)
    torch.testing.assert_close(schedule.losses(predicted, latents, noise, timesteps, emphasis), plain)
    emphasis[1, 0, 0, 0] = 3.0
    ratios = schedule.losses(predicted, latents, noise, timesteps, emphasis) / plain
    assert ratios.tolist() == pytest.approx([3.0 if row == 1 else 1.0 for row in range(len(latents))])


def test_pure_noise_weighs_nothing_under_min_snr() -> None:
    schedule = NoiseSchedule.sdxl("v", min_snr=5.0, zero_terminal_snr=True)
    assert schedule.weights(torch.tensor([0, 500, 999])).tolist()[2] == 0
    assert schedule.weights(torch.arange(999)).min() > 0


@pytest.mark.parametrize("options", [("epsilon", 0.0, False), ("v", 5.0, False), ("v", 0.0, True)])
def test_diffusers_samples_with_the_schedule_that_was_trained(options: Any, tmp_path: Path) -> None:
    from diffusers import EulerDiscreteScheduler

    schedule = NoiseSchedule.sdxl(*options)
    schedule.write_scheduler(tmp_path)
    scheduler = EulerDiscreteScheduler.from_pretrained(tmp_path)
    assert scheduler.config["prediction_type"] == {"epsilon": "epsilon", "v": "v_prediction"}[schedule.prediction]
    expected = schedule.alphas_cumprod.clone()
    expected[-1] = expected[-1].clamp(min=2**-24)  # diffusers' stand-in, since it divides by it
    torch.testing.assert_close(scheduler.alphas_cumprod, expected, rtol=1e-3, atol=1e-7)
    scheduler.set_timesteps(25)
    assert (int(scheduler.timesteps[0]) == 999) == schedule.zero_terminal_snr
    if schedule.prediction == "v":  # one step of a perfect prediction leads straight to the picture
        latents, noise = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
        timestep = scheduler.timesteps[0]
        sigma = scheduler.sigmas[0]
        rounded = timestep.long()[None]
        noisy = schedule.add_noise(latents, noise, rounded) * (sigma**2 + 1) ** 0.5
        original = scheduler.step(schedule.target(latents, noise, rounded), timestep, noisy).pred_original_sample
        torch.testing.assert_close(original, latents, rtol=1e-2, atol=2e-2)


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
