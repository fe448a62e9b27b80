"""The decoder once more, when the UNet is trained: what it is given then
is not quite what an encoder makes of a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..frozen.vae import load_vae
from ..proof.fitting import Schedule, forget, state_of
from ..proof.groundwork import read_world
from ..proof.teachers.autoencoder import narrowed, sharpen_decoder, widen
from ..proof.teachers.quality import autoencoder_quality
from ..proof.workshop import Workshop


def sharpen_once_more(
    shop: Workshop, out: Path, schedule: Schedule, *, noise: float, most: int, squares: float
) -> dict[str, Any]:
    """Train the teacher's decoder on, on latents with noise of that deviation; write a diffusers folder.

    Returns its quality. See `proof.teachers.autoencoder.sharpen_decoder` for `most` and `squares`.
    """
    width = shop.plan.autoencoder_width
    vae: Any = load_vae(shop.teacher("autoencoder"), torch.float32).vae
    pictures = read_world(shop, "main", "train", size=shop.plan.world_size)
    vae = narrowed(vae, width).requires_grad_(True).train().to(pictures.device)
    sharpen_decoder(vae, pictures, schedule, noise, keep=state_of(out, "decoder"), most=most, squares=squares)
    (vae if isinstance(width, int) else widen(vae)).save_pretrained(out)
    forget(out)
    return autoencoder_quality(shop, out)
