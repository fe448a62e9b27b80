"""Where a step's latents come from: a VAE, or a cache of what one made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..cache.latents import LatentCache
from ..data.decode import decode
from ..data.framing import aspect_buckets, cut, frame, place
from ..data.shards import Sample, ShardSource
from .rows import Draws


class CachedLatents:
    """Latents for finetuning from a cache; each row of each step draws from the VAE's posterior anew."""

    def __init__(self, cache: LatentCache):
        self._cache = cache
        self.vae_digest: str | None = cache.vae[0]
        """What `weights_digest` gave for the VAE that made them."""

    def buckets(self) -> np.ndarray:
        return self._cache.bucket_of

    def read(self, row: int, sample: Sample) -> tuple[Tensor, tuple[int, ...]]:
        latents = self._cache.read(torch.tensor([row]))
        return torch.cat([latents.mean, latents.std]), tuple(latents.condition[0].tolist())

    def encode(self, pictures: Tensor, draws: Sequence[Draws]) -> Tensor:
        mean, std = pictures.float().unbind(1)
        noise = torch.cat([torch.randn(1, *mean.shape[1:], generator=draw.generator()) for draw in draws])
        return (mean + std * noise) * self._cache.scaling_factor


class LatentSource(Protocol):
    """Where latents come from: a VAE, or a cache of what one made."""

    def buckets(self) -> np.ndarray:
        """The bucket of each row of the source, int [N]."""
        ...

    def read(self, row: int, sample: Sample) -> tuple[Tensor, tuple[int, ...]]:
        """What `encode` needs of a row, on the CPU, and its size conditions."""
        ...

    def encode(self, pictures: Tensor, draws: Sequence[Draws]) -> Tensor:
        """What `read` gave for b rows -> latents [b, 4, h, w], scaled as SDXL's UNet wants them."""
        ...


class LiveLatents:
    """Cut each picture to its bucket and encode it at every step."""

    def __init__(self, source: ShardSource, vae: Any, resolution: int, device: torch.device):
        self._source = source
        self._vae = vae.to(device).eval().requires_grad_(False)
        self._device = device
        self._shapes = aspect_buckets(resolution)

    def buckets(self) -> np.ndarray:
        return place(self._source, self._shapes, threads=8)[:, 0]

    def read(self, row: int, sample: Sample) -> tuple[Tensor, tuple[int, ...]]:
        picture = decode(sample.image, "photograph")
        framing = frame((picture.height, picture.width), self._shapes)
        pixels = np.array(cut(picture, framing))
        return torch.from_numpy(pixels), framing.condition

    @torch.no_grad()
    def encode(self, pictures: Tensor, draws: Sequence[Draws]) -> Tensor:
        x = pictures.to(self._device, self._vae.dtype) / 127.5 - 1
        posterior = self._vae.encode(x).latent_dist
        noise = torch.cat([torch.randn(1, *posterior.mean.shape[1:], generator=draw.generator()) for draw in draws])
        return (posterior.mean + posterior.std * noise.to(posterior.mean)) * self._vae.config.scaling_factor
