"""The miniature's autoencoder: TAESD's architecture, trained on the synthetic world, for diffusers and for ComfyUI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from faceclip.checkpoint import write_safetensors

from .fitting import Schedule, fit
from .pictures import Pictures, shuffled

SDXL_LATENT_SCALE = 0.13025  # ComfyUI hands an autoencoder latents divided by SDXL's factor
CROP = 64  # px; of larger pictures it sees random parts, which costs less and teaches as much
LATENT_NOISE = 0.05  # what a sampler leaves over; the decoder learns to look past it


def train_autoencoder(pictures: Pictures, schedule: Schedule, out: Path, width: int = 64) -> list[float]:
    """Train on whole pictures; write a diffusers folder `out`. Latents come out near mean 0 and variance 1, as a UNet expects.

    `width`: channels of all layers. 64 are TAESD's, which ComfyUI expects; half of it costs a quarter.
    """
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    torch.manual_seed(schedule.seed)
    vae: Any = AutoencoderTiny(
        encoder_block_out_channels=(width,) * 4, decoder_block_out_channels=(width,) * 4, scaling_factor=1.0
    ).train()

    def loss_of(rows: Tensor) -> Tensor:
        images = random_part(pictures.images[rows]).float() / 127.5 - 1
        latents = vae.encoder(images)
        mean, variance = latents.mean((0, 2, 3)), latents.var((0, 2, 3))
        decoded = vae.decoder(latents + LATENT_NOISE * torch.randn_like(latents))
        return _distance(decoded, images) + 0.01 * (mean.square() + (variance - 1).square()).mean()

    rows = shuffled(len(pictures), schedule.batch, schedule.steps, schedule.seed)
    losses = fit("autoencoder", vae.parameters(), loss_of, rows, schedule)
    vae.save_pretrained(out)
    return losses


def to_comfyui(vae: Any, out: Path, dtype: torch.dtype = torch.bfloat16, metadata: dict[str, str] | None = None) -> None:
    """Write a diffusers AutoencoderTiny as ComfyUI's Load VAE reads it."""
    tensors: dict[str, Tensor] = {"vae_scale": torch.tensor(SDXL_LATENT_SCALE), "vae_shift": torch.tensor(0.0)}
    for name, tensor in vae.state_dict().items():
        side, _, place, rest = name.split(".", 3)
        # ComfyUI's decoder begins with the clamp that diffusers applies outside of its layers.
        tensors[f"taesd_{side}.{int(place) + (side == 'decoder')}.{rest}"] = tensor
    write_safetensors(out, {name: tensor.to(dtype) for name, tensor in tensors.items()}, metadata or {})


def random_part(images: Tensor) -> Tensor:
    """The same random square of `CROP` px of all pictures [B, 3, S, S]; smaller ones whole."""
    top, left = (int(torch.randint(0, images.shape[-1] - CROP + 1, ())) for _ in range(2)) if images.shape[-1] > CROP else (0, 0)
    return images[..., top : top + CROP, left : left + CROP]


def _distance(decoded: Tensor, images: Tensor) -> Tensor:
    """Mean absolute difference of colours and of their edges: the latter keep eyes and lips from being blurred away."""
    edges = sum(F.l1_loss(decoded.diff(dim=dim), images.diff(dim=dim)) for dim in (-1, -2))
    return F.l1_loss(decoded, images) + edges
