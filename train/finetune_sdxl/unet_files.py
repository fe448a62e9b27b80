"""A UNet as diffusers, and every reader of its folders, wants it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from faceclip.tensor_file import write_safetensors


def write_unet(folder: Path, unet: Any, weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write `config.json`, of a diffusers UNet, and its weights, with what else the file is to say of itself."""
    unet.save_config(folder)
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", dict(weights), {"format": "pt", **metadata})
