"""Faces and prompts to SDXL conditioning: Load FaceCLIP Encoder, Encode Identity, FaceCLIP Text Encode."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from comfy_api.latest import io
from torch import Tensor

from ..faceclip import Identity
from ..faceclip.hub import size_text
from ..faceclip.prompt import LongPrompts, TokenizedPrompt
from .compat import newer, require_choice
from .encoder_model import ENCODER_DTYPES, EncoderModel, FaceReader
from .folders import MODELS, find_file, is_there, likely, list_files
from .status import STAYS, show_status, words_if_any
from .types import EncoderType, FaceT5Type, IdentityType

COMBINE = ("first", "average", "batch")
_MAX_RESOLUTION = 16384
_LARGE_FILE = 1_000_000_000  # bytes


class FaceCLIPEncoderLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        files = list_files([MODELS])
        return io.Schema(
            node_id="FaceCLIPEncoderLoader",
            display_name="Load FaceCLIP Encoder",
            category="FaceCLIP/loaders",
            description="Load FaceCLIP's encoder, which reads a face and a prompt together. It takes the place of SDXL's CLIP.",
            inputs=[
                io.Combo.Input(
                    "encoder_name",
                    options=files,
                    default=likely(files, "encoder"),
                    tooltip="face_clip_encoder.pt, or what `faceclip convert` made of it, in models/faceclip.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(ENCODER_DTYPES),
                    default="default",
                    tooltip="How the weights are kept; it computes in fp32. default: as ComfyUI keeps text encoders.",
                    **newer(io.Combo.Input, advanced=True),
                ),
            ],
            outputs=[EncoderType.Output(display_name="encoder", tooltip="For Encode Identity and FaceCLIP Text Encode.")],
            **STAYS,
            **newer(io.Schema, search_aliases=["faceclip clip", "face_clip_encoder"]),
        )

    @classmethod
    def validate_inputs(cls, encoder_name: str | None = None) -> bool | str:
        return is_there(encoder_name=(encoder_name, [MODELS]))

    @classmethod
    def execute(cls, encoder_name: str, dtype: str) -> io.NodeOutput:
        require_choice("dtype", dtype, ENCODER_DTYPES)
        path = find_file(encoder_name, [MODELS])
        model = EncoderModel.from_file(path, ENCODER_DTYPES[dtype])
        return io.NodeOutput(model, ui=words_if_any(conversion_hint(path, model.values)))


class FaceCLIPEncodeIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCLIPEncodeIdentity",
            display_name="Encode Identity",
            category="FaceCLIP",
            description="Read aligned faces once; the identity then serves any number of prompts.",
            inputs=[
                io.MultiType.Input(
                    "encoder", [EncoderType, FaceT5Type], tooltip="From Load FaceCLIP Encoder or, for FLUX, Load FaceT5."
                ),
                io.Image.Input(
                    "faces",
                    tooltip="Aligned crops of 448 x 448 from Detect Faces. A photo only resized to this gives a poor likeness.",
                ),
                io.Combo.Input(
                    "combine",
                    options=list(COMBINE),
                    default="first",
                    tooltip="What several crops become. first: only the first one. average: one person seen in several photos. "
                    "batch: one person each, for a batch of images. A black crop stands for no face.",
                ),
            ],
            outputs=[
                IdentityType.Output(
                    display_name="identity", tooltip="Who is in the picture, for FaceCLIP Text Encode or FaceT5 Text Encode."
                )
            ],
            **newer(io.Schema, search_aliases=["face embedding", "face id"]),
        )

    @classmethod
    def execute(cls, encoder: FaceReader, faces: Tensor, combine: str) -> io.NodeOutput:
        require_choice("combine", combine, COMBINE)
        people = encoder.encode_faces(faces[:1] if combine == "first" else faces)
        return io.NodeOutput(people.average() if combine == "average" else people)


class FaceCLIPTextEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCLIPTextEncode",
            display_name="FaceCLIP Text Encode",
            category="FaceCLIP",
            description="A prompt, and whose face it is about, to SDXL conditioning. Negative prompt: leave identity open.",
            inputs=[
                EncoderType.Input("encoder", tooltip="From Load FaceCLIP Encoder."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What the picture shows. The face comes from the identity: write what the person does and wears. "
                    "(word:1.2) gives weight.",
                ),
                IdentityType.Input(
                    "identity",
                    optional=True,
                    tooltip="From Encode Identity. Several people give a batch, one row each. Leave it open for text alone.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.5,
                    step=0.05,
                    tooltip="How much of the identity. 1 is the model as trained, 0 is exactly the prompt without a face.",
                ),
                io.Int.Input(
                    "width",
                    default=864,
                    min=64,
                    max=_MAX_RESOLUTION,
                    step=8,
                    tooltip="Width of the picture in pixels, which SDXL was trained to know. Use the latent's.",
                    **newer(io.Int.Input, advanced=True),
                ),
                io.Int.Input(
                    "height",
                    default=1152,
                    min=64,
                    max=_MAX_RESOLUTION,
                    step=8,
                    tooltip="Height of the picture in pixels, which SDXL was trained to know. Use the latent's.",
                    **newer(io.Int.Input, advanced=True),
                ),
                io.Combo.Input(
                    "long_prompts",
                    options=list(get_args(LongPrompts)),
                    default="cut",
                    tooltip="Prompts over 77 tokens. cut: leave out the end, as FaceCLIP's authors do; the console says what. "
                    "chunk: encode it in pieces, the identity in each.",
                    **newer(io.Combo.Input, advanced=True),
                ),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning", tooltip="For a sampler, like that of SDXL's own CLIP.")],
            **STAYS,
            **newer(io.Schema, search_aliases=["faceclip prompt", "clip text encode", "negative prompt"]),
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
    ) -> io.NodeOutput:
        result = encoder.encode_text(prompt, identity, strength, long_prompts)
        read = result.prompts[0]
        show_status(prompt_status(read))
        size = {"width": width, "height": height, "crop_w": 0, "crop_h": 0, "target_width": width, "target_height": height}
        said = prompt_status(read) if read.cut or read.left_out else ""
        return io.NodeOutput([[result.embeddings, {"pooled_output": result.pooled, **size}]], ui=words_if_any(said))


def conversion_hint(path: Path, values: int) -> str:
    """What to do about a large file that could be half as large; nothing is converted unasked.

    "" where there is no such file.
    """
    size, converted = path.stat().st_size, 2 * values
    if size < max(_LARGE_FILE, 1.5 * converted):
        return ""
    return (
        f"{size_text(size)}, read from the disk each time. Once, in a terminal in its folder: faceclip convert {path.name} "
        f"{path.stem}_bf16.safetensors --dtype bf16. Then choose that file: {size_text(converted)}."
    )


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
