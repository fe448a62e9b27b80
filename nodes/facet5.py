"""Faces and prompts to FLUX conditioning: Load FaceT5, FaceT5 Text Encode."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.sd
from comfy_api.latest import io
from torch import Tensor

from ..faceclip import FaceT5Encoder, Identity
from ..faceclip.hub import size_text
from ..faceclip.prompt import FLUX_NEGATIVE_PROMPT
from .compat import newer, require_choice
from .encoder_model import ENCODER_DTYPES, FaceT5Model
from .files import FACET5
from .fit import width_of_file
from .flux_clip import FluxPrompt, encode_prompt, read_prompt
from .folders import MODELS, find_file, is_there
from .inputs import conditioning_outputs, file_input, identity_input, kept_input, negative_input, prompt_input, strength_input
from .neighbours import Neighbours, batch_status, face_status
from .status import STAYS, show_status, words_if_any
from .types import FaceT5Type

logger = logging.getLogger(__name__)


class FaceCLIPT5Loader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCLIPT5Loader",
            display_name="Load FaceT5",
            category="FaceCLIP/loaders",
            description="Load the FaceT5 encoder, which puts a face into what FLUX's T5 reads. T5 and CLIP-L themselves are the "
            "core's.",
            inputs=[
                file_input("facet5_name", FACET5),
                kept_input(
                    "dtype",
                    ENCODER_DTYPES,
                    "How the weights are kept; it computes in fp32. default: bf16 stays bf16, others are kept as ComfyUI keeps "
                    "text encoders.",
                ),
            ],
            outputs=[FaceT5Type.Output(display_name="facet5", tooltip="For Encode Identity and FaceT5 Text Encode.")],
            **STAYS,
            **newer(io.Schema, search_aliases=["facet5", "face_t5_encoder", "flux face"]),
        )

    @classmethod
    def validate_inputs(cls, facet5_name: str | None = None) -> bool | str:
        return is_there(facet5_name=(facet5_name, [MODELS]))

    @classmethod
    def execute(cls, facet5_name: str, dtype: str) -> io.NodeOutput:
        require_choice("dtype", dtype, ENCODER_DTYPES)
        path = find_file(facet5_name, [MODELS])
        model = FaceT5Model.from_file(path, ENCODER_DTYPES[dtype])
        return io.NodeOutput(model, ui=words_if_any(conversion_hint(path, model.values)))


class FaceCLIPT5TextEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCLIPT5TextEncode",
            display_name="FaceT5 Text Encode",
            category="FaceCLIP",
            description="A prompt, and whose face it is about, to FLUX conditioning; the negative prompt sees no face.",
            inputs=[
                io.Clip.Input("clip", tooltip="FLUX's t5xxl and clip_l, from DualCLIPLoader with type flux."),
                FaceT5Type.Input("facet5", tooltip="From Load FaceT5."),
                prompt_input(" T5 reads 511 tokens; the node says what is left out of a longer prompt."),
                identity_input(),
                strength_input(),
                io.Float.Input(
                    "guidance",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="FLUX's embedded guidance. FaceT5 wants 1, for the positive and the negative prompt alike, "
                    "and the sampler's cfg at 3.5.",
                ),
                negative_input(FLUX_NEGATIVE_PROMPT),
            ],
            outputs=conditioning_outputs("FLUX"),
            hidden=[io.Hidden.dynprompt],
            **STAYS,
            **newer(io.Schema, search_aliases=["facet5 prompt", "flux face prompt", "clip text encode flux"]),
        )

    @classmethod
    def execute(
        cls,
        clip: comfy.sd.CLIP,
        facet5: FaceT5Model,
        prompt: str,
        strength: float,
        guidance: float,
        identity: Identity | None = None,
        negative_prompt: str | None = None,
    ) -> io.NodeOutput:
        around = Neighbours.of(cls)
        for name in around.unets(0):
            require_flux(name)
        read, without = read_prompt(clip, prompt), read_prompt(clip, negative_prompt or "")
        show_status(read.status)
        for which, text in (("prompt", read), ("negative prompt", without)):
            if text.cut:
                logger.warning("The %s is too long (%d tokens); this was cut off: %r", which, text.count, text.cut)
        # T5 first, and then FaceT5 for both: a card that holds one of them at a time loads each once.
        empty = encode_prompt(clip, read_prompt(clip, "")) if read.weighted or without.weighted else []
        hidden, hidden_without = (_Hidden(each, encode_prompt(clip, each), empty * each.weighted) for each in (read, without))
        with facet5.at_work(hidden.passes + hidden_without.passes):
            positive = hidden.conditioning(facet5, identity, strength, guidance)
            negative = hidden_without.conditioning(facet5, None, 1.0, guidance)
        sentences = [
            read.status if read.cut else "",
            f"Negative prompt: {without.status}" if without.cut else "",
            face_status(identity, around),
            *(batch_status(identity, latent) for latent in around.latents(0)),
        ]
        return io.NodeOutput(positive, negative, ui=words_if_any(*sentences))


def require_flux(name: str) -> None:
    """Raise ValueError for the file of an SDXL UNet behind FLUX's conditioning, before the sampler meets it."""
    if width_of_file(name):
        raise ValueError(
            f"FaceT5's conditioning is for FLUX, and the sampler's model {name} is an SDXL UNet. Load dit.pt with the core node "
            "Load Diffusion Model, or for SDXL use FaceCLIP Text Encode."
        )


@dataclass(frozen=True)
class _Hidden:
    """What T5 makes of a prompt, and of the empty one where words are weighted: hidden states, the core's options."""

    prompt: FluxPrompt
    parts: list[tuple[Tensor, dict[str, Any]]]
    empty: list[tuple[Tensor, dict[str, Any]]]

    @property
    def passes(self) -> int:
        return len(self.parts) + len(self.empty)

    def conditioning(self, facet5: FaceT5Model, identity: Identity | None, strength: float, guidance: float) -> list[Any]:
        embeddings = [facet5.encode(hidden, identity, strength) for hidden, _ in self.parts]
        if self.empty:
            empty = [facet5.encode(hidden, identity, strength) for hidden, _ in self.empty]
            pairs = zip(empty, embeddings, strict=True)
            embeddings = [FaceT5Encoder.emphasise(full, none, self.prompt.weights) for none, full in pairs]
        found = []
        for rows, (_, options) in zip(embeddings, self.parts, strict=True):
            pooled = options["pooled_output"].expand(len(rows), -1)
            found.append([rows, {**options, "pooled_output": pooled, "guidance": guidance}])
        return found


def conversion_hint(path: Path, values: int) -> str:
    """What to do about the released file, most of which is T5; nothing is converted unasked. "" for a converted one."""
    size, converted = path.stat().st_size, 2 * values
    if size < 3 * converted:
        return ""
    return (
        f"{size_text(size)}, of which FaceT5 itself is a small part. Once, in a terminal in its folder: faceclip convert "
        f"{path.name} facet5_bf16.safetensors. Then choose that file, and delete the other if T5 and CLIP-L are there."
    )
