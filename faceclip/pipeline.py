"""FaceCLIP-SDXL on diffusers: a face and a prompt become pictures, for people without ComfyUI.

Everything but the conditioning is diffusers' own `StableDiffusionXLPipeline`, which gets no text encoders.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import hub
from .identity import Identity
from .model.encoder import Conditioning, FaceCLIPEncoder
from .prompt import NEGATIVE_PROMPT
from .sdxl_files import (
    SDXL_BASE,
    base_folder,
    load_scheduler,
    load_unet,
    load_vae,
    require_fit,
    sdxl_pipeline,
    unet_config_beside,
    unet_prediction,
)

if TYPE_CHECKING:
    from PIL.Image import Image

INSTALL_COMMAND = "pip install diffusers transformers accelerate"

_VAE_STEP = 8  # SDXL's latents are an eighth of the picture


class PipelineUnavailableError(RuntimeError):
    """diffusers is not installed. The message names the command."""


class FaceCLIPPipeline:
    """An encoder and an SDXL pipeline; call it to make pictures.

    `encoder` and `sdxl` (a diffusers `StableDiffusionXLPipeline`) are plain attributes: schedulers can be
    exchanged and LoRAs loaded on `sdxl` as with any other.
    """

    def __init__(self, encoder: FaceCLIPEncoder, sdxl: Any, device: torch.device | str = "cpu", offload: bool = False):
        """Both go to `device`.

        With `offload` only while at work: the encoder, then the UNet, then the VAE (wants accelerate).

        Raises CheckpointError if the UNet was made for conditioning of other widths than the encoder's.
        """
        require_fit(encoder, sdxl.unet)
        self.encoder = encoder
        self.sdxl = sdxl
        self.device = torch.device(device)
        self._offload = offload
        if offload:
            encoder.to("cpu")
            sdxl.enable_model_cpu_offload(device=self.device)
        else:
            encoder.to(self.device)
            sdxl.to(self.device)

    @staticmethod
    def from_files(
        encoder: str | Path,
        unet: str | Path,
        base: str | Path = SDXL_BASE,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        offload: bool = False,
        vae: str | Path | None = None,
    ) -> FaceCLIPPipeline:
        """Load everything that generation needs; nothing is downloaded.

        encoder: any accepted encoder file. unet: the released `unet.pt`, a safetensors of it, or a diffusers folder.
        Where it says what it predicts, as files of training do, it is sampled so; else as the base's scheduler says.
        base: SDXL base in diffusers' layout, a folder or the name of a repository that is in Hugging Face's cache.
        Only its VAE, its scheduler and its UNet's configuration are read. A single-file checkpoint is not enough:
        diffusers would ask the network for the configurations that it lacks.
        vae: a VAE's file (sdxl_vae.safetensors, or a tiny one) or folder, which takes the place of `base`: the
        schedule is then SDXL base's, and the UNet's shape that of the `config.json` beside it, or SDXL's.
        device: by default the GPU, if there is one. dtype: by default bf16 on
            a GPU, as in the release, and fp32 on a CPU.

        Raises CheckpointError for files that are missing, damaged or
        something else, PipelineUnavailableError without diffusers.
        """
        if find_spec("diffusers") is None:
            raise PipelineUnavailableError(f"This needs diffusers, which is not installed. Run `{INSTALL_COMMAND}`.")
        device = torch.device(device) if device else best_device()
        dtype = dtype or default_dtype(device)
        hub.require_files(encoder, unet, *([vae] if vae else []))
        folder = None if vae else base_folder(base)
        sdxl = sdxl_pipeline(
            vae=load_vae(vae or Path(folder or "") / "vae", dtype),
            unet=load_unet(unet, folder / "unet" / "config.json" if folder else unet_config_beside(unet), dtype),
            scheduler=load_scheduler(folder, unet_prediction(unet)),
        )
        # Loaded on the CPU, it would compute as fits the CPU; it is to compute on `device`.
        computes_in = None if device.type == "cpu" else dtype
        loaded = FaceCLIPEncoder.from_file(encoder, "cpu", dtype, computes_in)
        return FaceCLIPPipeline(loaded, sdxl, device, offload)

    def __call__(
        self,
        prompt: str | Sequence[str],
        face: Tensor | Identity | None = None,
        *,
        negative_prompt: str = NEGATIVE_PROMPT,
        width: int = 864,
        height: int = 1152,
        steps: int = 50,
        guidance: float = 5.0,
        seed: int | Sequence[int] | None = None,
        strength: float = 1.0,
        num_images: int = 1,
    ) -> list[Image]:
        """Make `num_images` pictures for each prompt and person (they pair up as in `FaceCLIPEncoder.encode`).

        face: aligned crops [B, 3, 448, 448] or [3, 448, 448], RGB in [0, 1], or an Identity; None is text alone.
        width, height: pixels, multiples of 8. guidance: 1 switches guidance, and with it the negative prompt, off.
        seed: picture i is made from seed + i, or from the i-th of several, by generators of its own on the
            CPU, so that it does not depend on the device's.
        strength: see `FaceCLIPEncoder.encode`. Raises ValueError for sizes, numbers or faces that cannot be used.
        """
        _check_request(width, height, steps, num_images)
        positive, negative = self.conditioning(prompt, face, negative_prompt, strength)
        pictures = len(positive.embeddings) * num_images
        result = self.sdxl(
            **_embeddings(positive, negative),
            width=width,
            height=height,
            original_size=(height, width),
            target_size=(height, width),
            num_inference_steps=steps,
            guidance_scale=guidance,
            num_images_per_prompt=num_images,
            generator=generators(seed, pictures),
        )
        return result.images

    def conditioning(
        self,
        prompt: str | Sequence[str],
        face: Tensor | Identity | None = None,
        negative_prompt: str = NEGATIVE_PROMPT,
        strength: float = 1.0,
    ) -> tuple[Conditioning, Conditioning]:
        """What the UNet gets, positive and negative, of equal batch.

        The negative is the same encoder's, with no identity.
        """
        if self._offload:
            self.encoder.to(self.device)
        identity = self._identity(face)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        positive, negative = self.encoder.encode_with_negative(prompts, [negative_prompt], identity, strength=strength)
        if self._offload:
            self.encoder.to("cpu")
        rows = len(positive.embeddings)
        return positive, Conditioning(
            negative.embeddings.expand(rows, -1, -1), negative.pooled.expand(rows, -1), negative.prompts * rows
        )

    def _identity(self, face: Tensor | Identity | None) -> Identity | None:
        if face is None or isinstance(face, Identity):
            return face
        return self.encoder.encode_faces(face.unsqueeze(0) if face.ndim == 3 else face)


def best_device() -> torch.device:
    """CUDA (or ROCm), then Apple's GPU, then the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def default_dtype(device: torch.device) -> torch.dtype:
    """bf16 on a GPU, as in the release; fp32 on a CPU, most of which are slow in anything else."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def _check_request(width: int, height: int, steps: int, num_images: int) -> None:
    if min(width, height) < _VAE_STEP or width % _VAE_STEP or height % _VAE_STEP:
        raise ValueError(f"Width and height must be multiples of {_VAE_STEP} pixels; found {width} x {height}.")
    if steps < 1 or num_images < 1:
        raise ValueError(f"Steps and number of images must be at least 1; found {steps} and {num_images}.")


def _embeddings(positive: Conditioning, negative: Conditioning) -> dict[str, Tensor]:
    return {
        "prompt_embeds": positive.embeddings,
        "pooled_prompt_embeds": positive.pooled,
        "negative_prompt_embeds": negative.embeddings,
        "negative_pooled_prompt_embeds": negative.pooled,
    }


def generators(seed: int | Sequence[int] | None, count: int) -> list[torch.Generator]:
    """One for each picture, from `seed` on; from a random one if that is None.

    Raises ValueError for several seeds that are not as many as the pictures.
    """
    if seed is not None and not isinstance(seed, int):
        if len(seed) != count:
            raise ValueError(f"There are {len(seed)} seeds for {count} pictures. Give one seed, or one for each picture.")
        return [torch.Generator("cpu").manual_seed(one) for one in seed]
    first = secrets.randbelow(2**32) if seed is None else seed
    return [torch.Generator("cpu").manual_seed(first + i) for i in range(count)]
