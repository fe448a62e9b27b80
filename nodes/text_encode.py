"""A prompt, its negative, and whose face it is about, to SDXL conditioning: FaceCLIP Text Encode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from comfy_api.latest import io

from ..faceclip import Conditioning, Identity
from ..faceclip.prompt import NEGATIVE_PROMPT, LongPrompts, TokenizedPrompt
from ..faceclip.schedule import strength_parts
from .compat import newer
from .encoder_model import EncoderModel
from .fit import require_fit_of_file
from .inputs import conditioning_outputs, identity_input, negative_input, prompt_input, strength_input
from .neighbours import Neighbours, batch_status, face_status
from .status import STAYS, show_status, words_if_any
from .types import EncoderType

_MAX_RESOLUTION = 16384
_SDXL = 2048  # width of its conditioning
_SMALL = 512 * 768  # pixels of a picture below which SDXL draws badly


class FaceCLIPTextEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCLIPTextEncode",
            display_name="FaceCLIP Text Encode",
            category="FaceCLIP",
            description="A prompt, and whose face it is about, to SDXL conditioning; the negative prompt sees no face.",
            inputs=[
                EncoderType.Input("encoder", tooltip="From Load FaceCLIP or Load FaceCLIP Encoder."),
                prompt_input(),
                identity_input(),
                strength_input(),
                io.Int.Input(
                    "width",
                    default=0,
                    min=0,
                    max=_MAX_RESOLUTION,
                    step=8,
                    tooltip="Width of the picture in pixels, which SDXL was trained to know. 0 is the picture's own.",
                    **newer(io.Int.Input, advanced=True),
                ),
                io.Int.Input(
                    "height",
                    default=0,
                    min=0,
                    max=_MAX_RESOLUTION,
                    step=8,
                    tooltip="Height of the picture in pixels, which SDXL was trained to know. 0 is the picture's own.",
                    **newer(io.Int.Input, advanced=True),
                ),
                io.Combo.Input(
                    "long_prompts",
                    options=list(get_args(LongPrompts)),
                    default="cut",
                    tooltip="Prompts over 77 tokens. cut: leave out the end, as FaceCLIP's authors do; the node says what. "
                    "chunk: encode it in pieces, the identity in each.",
                    **newer(io.Combo.Input, advanced=True),
                ),
                negative_input(NEGATIVE_PROMPT),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="When the face comes in, as a share of the sampling: 0 is the first step. Before, the prompt alone.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="When the face goes, as a share of the sampling: 1 is the last step. After, the prompt alone.",
                ),
                io.String.Input(
                    "strength_schedule",
                    default="",
                    optional=True,
                    tooltip="Other strengths from some point of the sampling on: 0:0.4, 0.3:1 is 0.4 first, and 1 after three "
                    "tenths. Empty: strength all through.",
                    **newer(io.String.Input, advanced=True),
                ),
            ],
            outputs=conditioning_outputs("SDXL"),
            hidden=[io.Hidden.dynprompt],
            **STAYS,
            **newer(io.Schema, search_aliases=["faceclip prompt", "clip text encode", "negative prompt", "strength schedule"]),
        )

    @classmethod
    def execute(
        cls,
        encoder: EncoderModel,
        prompt: str,
        strength: float,
        width: int,
        height: int,
        long_prompts: LongPrompts,
        identity: Identity | None = None,
        negative_prompt: str | None = None,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        strength_schedule: str = "",
    ) -> io.NodeOutput:
        size = _size(width, height)
        parts = strength_parts(strength, start_percent, end_percent, strength_schedule)
        if identity is None:
            parts = strength_parts(0.0)
        around = Neighbours.of(cls)
        for unet in around.unets(0):
            require_fit_of_file(encoder, unet)
        results = [encoder.encode_text(prompt, identity, part.strength, long_prompts) for part in parts[1:]]
        if negative_prompt is None:  # a graph from before there was one: what it gives is encoded as it was
            first, negative = (
                encoder.encode_text(prompt, identity, parts[0].strength, long_prompts),
                encoder.encode_text("", None),
            )
        else:
            first, negative = encoder.encode_with_negative(prompt, negative_prompt, identity, parts[0].strength, long_prompts)
        ranges = [{"start_percent": part.start, "end_percent": part.end} if len(parts) > 1 else {} for part in parts]
        positive = [_conditioning(found, {**size, **when}) for found, when in zip([first, *results], ranges, strict=True)]
        read = first.prompts[0]
        show_status(prompt_status(read))
        sentences = [
            prompt_status(read) if read.cut or read.left_out else "",
            f"Negative prompt: {prompt_status(negative.prompts[0])}" if negative.prompts[0].cut else "",
            face_status(identity, around),
            *_latent_status(identity, size, around, encoder),
        ]
        return io.NodeOutput(positive, [_conditioning(negative, size)], ui=words_if_any(*sentences))


def _size(width: int, height: int) -> dict[str, int]:
    """What SDXL is told of the picture's size; nothing where the sampler tells it. Raises ValueError."""
    if (width == 0) != (height == 0):
        raise ValueError(f"width is {width} and height is {height}: give both, or 0 for both, which is the picture's own size.")
    if width == 0:
        return {}
    return {"width": width, "height": height, "crop_w": 0, "crop_h": 0, "target_width": width, "target_height": height}


def _conditioning(found: Conditioning, options: Mapping[str, Any]) -> list[Any]:
    return [found.embeddings, {"pooled_output": found.pooled, **options}]


def _latent_status(identity: Identity | None, size: Mapping[str, int], around: Neighbours, encoder: EncoderModel) -> list[str]:
    """What does not fit between the prompt, the people and the empty latents of the samplers."""
    sentences = []
    for latent in around.latents(0):
        picture = f"{latent.width} x {latent.height}"
        if size and (size["width"], size["height"]) != (latent.width, latent.height):
            sentences.append(
                f"The prompt is for {size['width']} x {size['height']}, the latent is {picture}. Set both alike, or width and "
                "height here to 0."
            )
        elif encoder.conditioning_width == _SDXL and latent.width * latent.height < _SMALL:
            sentences.append(f"The latent is {picture}. SDXL draws well at about a megapixel: 864 x 1152, or 1024 x 1024.")
        sentences.append(batch_status(identity, latent))
    return sentences


def prompt_status(prompt: TokenizedPrompt) -> str:
    """How long a prompt is, and what of it was left out."""
    chunks = len(prompt.input_ids)
    length = (
        f"{prompt.count} of {prompt.room} tokens" if chunks == 1 else f"{prompt.count} tokens in {chunks} chunks of {prompt.room}"
    )
    if prompt.cut:
        length = f"{length}: too long. Left out: {prompt.cut}"
    embeddings = ", ".join(f"embedding:{name}" for name in prompt.left_out)
    return f"{length}\nNot supported and left out: {embeddings}" if embeddings else length
