"""The latents that the mini model's UNet learns on: `train.cache
latents` without the autoencoder's empty channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, autocast

from ..cache.latents import cache_latents
from ..data.shards import ShardSource
from ..frozen.towers import weights_digest
from ..frozen.vae import load_vae
from ..proof.teachers.autoencoder import narrowed


def cache_narrow_latents(
    people: str, out: Path, autoencoder: Path, width: int | tuple[int, ...], size: int, device: torch.device
) -> None:
    """Fill the cache `out` with the latents of square pictures of `size` px, computed in bf16.

    diffusers' class has 64 channels everywhere; at full resolution three quarters
    of the autoencoder's are zero, and take most of the time.
    """
    vae: Any = narrowed(load_vae(autoencoder, torch.float32).vae, width).eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def encode(pixels: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(device.type, torch.bfloat16):
            latents = vae.encoder(pixels.to(device)).float().cpu()
        return latents, torch.zeros_like(latents)

    made_by = {"vae": weights_digest(vae.encoder), "scaling_factor": vae.config.scaling_factor, "dtype": "bf16"}
    cache_latents(ShardSource(people), out, encode, [(size, size)], made_by, batch_size=16, threads=2)
