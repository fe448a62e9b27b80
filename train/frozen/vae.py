"""VAEs that pictures become latents by."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from faceclip.sdxl_files import load_model
from faceclip.tensor_file import CheckpointError


def load_vae(folder: Path, dtype: torch.dtype) -> Any:
    """The VAE of a diffusers folder: AutoencoderKL (SDXL's own) or AutoencoderTiny (the mini model's).

    Raises CheckpointError if it is something else.
    """
    path = folder / "config.json"
    kind = json.loads(path.read_text()).get("_class_name") if path.is_file() else None
    if kind not in ("AutoencoderKL", "AutoencoderTiny"):
        raise CheckpointError(f"{folder} is not SDXL's VAE in diffusers' format: its config.json says {kind}, not AutoencoderKL.")
    vae = load_model(getattr(import_module("diffusers"), kind), folder, dtype)
    return vae if kind == "AutoencoderKL" else TinyVAE(vae)


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
