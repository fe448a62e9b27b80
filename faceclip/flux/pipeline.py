"""FaceT5-FLUX on diffusers: a face and a prompt become pictures, for people without ComfyUI.

Everything but the conditioning is diffusers' own `FluxPipeline`, with its own T5 and CLIP-L.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import hub
from ..diffusers_config import built_by
from ..identity import Identity
from ..pipeline import INSTALL_COMMAND, PipelineUnavailableError, best_device, default_dtype, generators
from ..prompt import FLUX_NEGATIVE_PROMPT
from .encoder import FaceT5Encoder
from .model_files import FLUX_BASE, base_folder, load_transformer, require_fit
from .prompt import T5Prompt, read_prompt

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)

EMBEDDED_GUIDANCE = 1.0

_STEP = 16  # FLUX's latents are an eighth of the picture, taken in patches of two


class FaceT5Pipeline:
    """A FaceT5 encoder and a FLUX pipeline; call it to make pictures.

    `encoder` and `flux` (a diffusers `FluxPipeline`) are plain
    attributes: LoRAs can be loaded on `flux` as with any other.
    """

    def __init__(self, encoder: FaceT5Encoder, flux: Any, device: torch.device | str = "cpu", offload: bool = False):
        """Both go to `device`; with `offload` only while at work: T5 and CLIP-L, the encoder, the transformer, the VAE.

        Raises CheckpointError if the transformer or T5 are of other widths than the encoder.
        """
        require_fit(encoder, flux)
        self.encoder = encoder
        self.flux = flux
        self.device = torch.device(device)
        self._offload = offload
        if offload:
            encoder.to("cpu")
            flux.enable_model_cpu_offload(device=self.device)
        else:
            encoder.to(self.device)
            flux.to(self.device)

    @staticmethod
    def from_files(
        encoder: str | Path,
        transformer: str | Path,
        base: str | Path = FLUX_BASE,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        offload: bool = False,
    ) -> FaceT5Pipeline:
        """Load everything that generation needs; nothing is downloaded.

        encoder: any accepted FaceT5 file. transformer: the released `dit.pt`, what `faceclip convert` made of it, or
        a diffusers folder. base: FLUX.1-dev in diffusers' layout, a folder or the name of a repository that is in
        Hugging Face's cache; its VAE, T5, CLIP-L, tokenizers and scheduler, and the transformer's configuration are
        read.
        device: by default the GPU, if there is one. dtype: by default bf16 on
            a GPU, as in the release, and fp32 on a CPU.

        Raises CheckpointError for files that are missing, damaged or
        something else, PipelineUnavailableError without diffusers.
        """
        if find_spec("diffusers") is None or find_spec("transformers") is None:
            raise PipelineUnavailableError(
                f"This needs diffusers and transformers, which are not installed. Run `{INSTALL_COMMAND}`."
            )
        diffusers = import_module("diffusers")
        device = torch.device(device) if device else best_device()
        dtype = dtype or default_dtype(device)
        hub.require_files(encoder, transformer)
        folder = base_folder(base)
        network = load_transformer(transformer, folder / "transformer" / "config.json", dtype)
        with built_by(folder):
            flux = diffusers.FluxPipeline.from_pretrained(folder, transformer=network, torch_dtype=dtype, local_files_only=True)
        # Loaded on the CPU, it would compute as fits the CPU; it is to compute on `device`.
        loaded = FaceT5Encoder.from_file(encoder, "cpu", dtype, None if device.type == "cpu" else dtype)
        return FaceT5Pipeline(loaded, flux, device, offload)

    def __call__(
        self,
        prompt: str | Sequence[str],
        face: Tensor | Identity | None = None,
        *,
        negative_prompt: str = FLUX_NEGATIVE_PROMPT,
        width: int = 864,
        height: int = 1152,
        steps: int = 50,
        guidance: float = 3.5,
        embedded_guidance: float = EMBEDDED_GUIDANCE,
        seed: int | None = None,
        strength: float = 1.0,
        num_images: int = 1,
    ) -> list[Image]:
        """Make `num_images` pictures for each prompt and person (they pair up as in `FaceT5Encoder.encode`).

        face: aligned crops [B, 3, 448, 448] or [3, 448, 448], RGB in [0, 1], or an Identity; None is text alone.
        width, height: pixels, multiples of 16. guidance: true CFG with the negative prompt; 1 switches it off.
        embedded_guidance: what FLUX.1-dev is told, in the positive and the negative; the release's is 1.
        seed: picture i is made from seed + i, by generators of its own on the
            CPU, so that it does not depend on the device's.
        strength: see `FaceT5Encoder.encode`. Raises ValueError for sizes, numbers or faces that cannot be used.
        """
        if min(width, height) < _STEP or width % _STEP or height % _STEP:
            raise ValueError(f"Width and height must be multiples of {_STEP} pixels; found {width} x {height}.")
        if steps < 1 or num_images < 1:
            raise ValueError(f"Steps and number of images must be at least 1; found {steps} and {num_images}.")
        positive, negative = self.conditioning(prompt, face, negative_prompt, strength)
        # Repeated here: diffusers repeats only what it encodes itself.
        embeddings, pooled, without, pooled_without = (
            part.repeat_interleave(num_images, dim=0) for part in (*positive, *negative)
        )
        result = self.flux(
            prompt_embeds=embeddings,
            pooled_prompt_embeds=pooled,
            negative_prompt_embeds=without,
            negative_pooled_prompt_embeds=pooled_without,
            true_cfg_scale=guidance,
            guidance_scale=embedded_guidance,
            width=width,
            height=height,
            num_inference_steps=steps,
            generator=generators(seed, len(embeddings)),
        )
        return result.images

    def conditioning(
        self,
        prompt: str | Sequence[str],
        face: Tensor | Identity | None = None,
        negative_prompt: str = FLUX_NEGATIVE_PROMPT,
        strength: float = 1.0,
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """What the transformer gets, positive and negative, of equal batch:
        embeddings [N, 512, 4096] and pooled [N, 768].

        The negative has the black face. Words in (brackets:1.2) are weighted, by distance from the empty prompt of
        the same identity; the end of a prompt beyond T5's 512 tokens is cut, and logged.
        """
        if self._offload:
            self.encoder.to(self.device)
        if isinstance(face, Tensor):
            face = self.encoder.encode_faces(face.unsqueeze(0) if face.ndim == 3 else face)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        positive = self._encode(prompts, face, strength)
        negative = self._encode([negative_prompt], None, 1.0)
        if self._offload:
            self.encoder.to("cpu")
            self.flux.maybe_free_model_hooks()  # T5 would stay until the transformer runs, CLIP-L until the end
        rows = len(positive[0])
        return positive, (negative[0].expand(rows, -1, -1), negative[1].expand(rows, -1))

    @torch.no_grad()
    def _encode(self, prompts: list[str], identity: Identity | None, strength: float) -> tuple[Tensor, Tensor]:
        read = [read_prompt(text, self.flux.tokenizer_2) for text in prompts]
        for prompt in read:
            if prompt.cut:
                logger.warning("The prompt is too long (%d tokens); this was cut off: %r", prompt.count, prompt.cut)
        embeddings = self.encoder.encode(self._t5(read), identity, strength=strength)
        rows = len(embeddings)
        if any(prompt.weighted for prompt in read):
            empty = self.encoder.encode(self._t5([read_prompt("", self.flux.tokenizer_2)]), identity, strength=strength)
            embeddings = self.encoder.emphasise(embeddings, empty, torch.stack([prompt.weights for prompt in read]))
        pooled = self._pooled([prompt.plain for prompt in read])
        return embeddings.to(self.flux.transformer.dtype), pooled.expand(rows, -1)

    def _t5(self, prompts: list[T5Prompt]) -> Tensor:
        """Last hidden states [N, 512, 4096]; no mask, so padding takes part."""
        return self.flux.text_encoder_2(torch.stack([prompt.input_ids for prompt in prompts]).to(self.device))[0]

    def _pooled(self, texts: list[str]) -> Tensor:
        """CLIP-L's state at the first end token, after its last LayerNorm [N, 768]; no identity in it."""
        ids = self.flux.tokenizer(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        return self.flux.text_encoder(ids.to(self.device)).pooler_output.to(self.flux.transformer.dtype)
