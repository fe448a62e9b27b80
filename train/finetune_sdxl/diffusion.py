"""SDXL's forward process and what its UNet is trained to predict. B batch, latents [B, 4, h, w]."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

TIMESTEPS = 1000
_BETAS = (0.00085, 0.012)  # SDXL's, "scaled linear"


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """`alphas_cumprod` [1000], fp32: how much of the picture is left at each timestep, as a share of the variance."""

    alphas_cumprod: Tensor
    prediction: Literal["epsilon", "v"] = "epsilon"
    min_snr: float = 0.0
    zero_terminal_snr: bool = False

    @staticmethod
    def sdxl(
        prediction: Literal["epsilon", "v"] = "epsilon", min_snr: float = 0.0, zero_terminal_snr: bool = False
    ) -> NoiseSchedule:
        """SDXL's schedule.

        With `zero_terminal_snr`, rescaled so that the last step is pure noise (arXiv 2305.08891, alg. 1).
        """
        betas = torch.linspace(_BETAS[0] ** 0.5, _BETAS[1] ** 0.5, TIMESTEPS, dtype=torch.float64) ** 2
        signal = (1 - betas).cumprod(0).sqrt()
        if zero_terminal_snr:
            signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
        return NoiseSchedule((signal**2).float(), prediction, min_snr, zero_terminal_snr)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = sqrt(a) x_0 + sqrt(1 - a) noise."""
        signal, sigma = self._factors(timesteps, latents)
        return signal * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The noise (paper), or v = sqrt(a) noise - sqrt(1 - a) x_0 (arXiv 2202.00512)."""
        if self.prediction == "epsilon":
            return noise
        signal, sigma = self._factors(timesteps, latents)
        return signal * noise - sigma * latents

    def weights(self, timesteps: Tensor) -> Tensor:
        """[B] fp32: ones, or min-SNR-gamma's (arXiv 2303.09556) for what is predicted: min(SNR, gamma) over SNR for the
        noise, over SNR + 1 for v. A step of pure noise, which has no signal at all, thereby weighs nothing."""
        if not self.min_snr:
            return torch.ones(len(timesteps), device=timesteps.device)
        alphas = self.alphas_cumprod.to(timesteps.device)[timesteps]
        snr = alphas / (1 - alphas)
        return snr.clamp(max=self.min_snr) / (snr if self.prediction == "epsilon" else snr + 1)

    def losses(
        self, predicted: Tensor, latents: Tensor, noise: Tensor, timesteps: Tensor, emphasis: Tensor | None = None
    ) -> Tensor:
        """[B] fp32: each row's weighted mean squared error.

        emphasis: weights of its places, [B, 1, H, W].
        """
        error = (predicted.float() - self.target(latents, noise, timesteps).float()).square()
        if emphasis is not None:
            error = error * emphasis
        return error.flatten(1).mean(1) * self.weights(timesteps)

    def _factors(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        alphas = self.alphas_cumprod.to(like.device)[timesteps].view(-1, 1, 1, 1)
        return alphas.sqrt(), (1 - alphas).sqrt()

    @property
    def metadata(self) -> dict[str, str]:
        """What a UNet's file says of it; Load FaceCLIP UNet sets ComfyUI's sampling by this."""
        return {"prediction": self.prediction, "zero_terminal_snr": str(self.zero_terminal_snr).lower()}

    def write_scheduler(self, folder: Path) -> None:
        """Write the scheduler's configuration for diffusers, which does not know from the weights what they predict."""
        self.scheduler().save_pretrained(folder)

    def scheduler(self) -> Any:
        """diffusers' Euler sampler on this schedule."""
        from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler

        return EulerDiscreteScheduler(
            num_train_timesteps=TIMESTEPS,
            beta_start=_BETAS[0],
            beta_end=_BETAS[1],
            beta_schedule="scaled_linear",
            prediction_type="v_prediction" if self.prediction == "v" else "epsilon",
            rescale_betas_zero_snr=self.zero_terminal_snr,
            # Sampling must begin where there is nothing but noise (arXiv 2305.08891, section 3.3).
            timestep_spacing="trailing" if self.zero_terminal_snr else "leading",
            steps_offset=0 if self.zero_terminal_snr else 1,
        )
