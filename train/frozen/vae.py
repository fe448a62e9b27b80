"""VAEs that pictures become latents by."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from faceclip import sdxl_files


def load_vae(path: Path, dtype: torch.dtype) -> Any:
    """The VAE of a diffusers folder or a file: AutoencoderKL (SDXL's own) or AutoencoderTiny (the mini model's).

    Raises CheckpointError if it is something else.
    """
    vae = sdxl_files.load_vae(path, dtype)
    return TinyVAE(vae) if type(vae).__name__ == "AutoencoderTiny" else vae


class TinyVAE(nn.Module):
    """AutoencoderTiny with AutoencoderKL's interface: its latents are their own distribution, of no spread."""

    def __init__(self, vae: Any):
        super().__init__()
        self.vae = vae
        self.config = vae.config

    @property
    def dtype(self) -> torch.dtype:
        return self.vae.dtype

    def encode(self, pixels: Tensor) -> TinyEncoding:
        """Pixels [B, 3, h, w] in [-1, 1] -> latents [B, 4, h/8, w/8]."""
        mean = self.vae.encode(pixels).latents
        return TinyEncoding(TinyLatents(mean, torch.zeros_like(mean)))


class TinyLatents(NamedTuple):
    mean: Tensor
    std: Tensor


class TinyEncoding(NamedTuple):
    latent_dist: TinyLatents
