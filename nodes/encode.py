"""Faces to identities: Load FaceCLIP Encoder, Encode Identity."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io
from torch import Tensor

from ..faceclip.hub import size_text
from .compat import newer, require_choice
from .encoder_model import FACECLIP_DTYPES, EncoderModel, FaceReader
from .files import ENCODER
from .folders import MODELS, find_file, is_there
from .inputs import file_input, kept_input
from .status import STAYS, words_if_any
from .types import EncoderType, FaceT5Type, IdentityType

COMBINE = ("first", "average", "batch")
_LARGE_FILE = 1_000_000_000  # bytes


class FaceCLIPEncoderLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCLIPEncoderLoader",
            display_name="Load FaceCLIP Encoder",
            category="FaceCLIP/loaders",
            description="Load FaceCLIP's encoder, which reads a face and a prompt together. It takes the place of SDXL's CLIP.",
            inputs=[
                file_input("encoder_name", ENCODER),
                kept_input(
                    "dtype",
                    FACECLIP_DTYPES,
                    "How the weights are kept; it computes in fp32. default: bf16 stays bf16, others are kept as ComfyUI "
                    "keeps text encoders. int8, on a CPU only: faster and smaller, less exact.",
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
        require_choice("dtype", dtype, FACECLIP_DTYPES)
        path = find_file(encoder_name, [MODELS])
        model = EncoderModel.from_file(path, FACECLIP_DTYPES[dtype])
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
                io.MultiType.Input("encoder", [EncoderType, FaceT5Type], tooltip="From Load FaceCLIP or, for FLUX, Load FaceT5."),
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
                io.String.Input(
                    "weights",
                    default="",
                    optional=True,
                    tooltip="How much each photo counts in average, in their order: 1, 1, 0.5. Empty: all alike.",
                    **newer(io.String.Input, advanced=True),
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
    def execute(cls, encoder: FaceReader, faces: Tensor, combine: str, weights: str = "") -> io.NodeOutput:
        require_choice("combine", combine, COMBINE)
        shares = _shares(weights, len(faces))
        if shares and combine != "average":
            raise ValueError(
                f"weights are for several photos of one person: set combine to average (now {combine}), or empty them."
            )
        people = encoder.encode_faces(faces[:1] if combine == "first" else faces)
        return io.NodeOutput(people.average(shares) if combine == "average" else people)


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


def _shares(weights: str, photos: int) -> list[float] | None:
    """The numbers of a text like "1, 1, 0.5", one for each photo; None for an empty one. Raises ValueError."""
    entries = weights.replace(",", " ").replace(";", " ").split()
    if not entries:
        return None
    try:
        numbers = [float(entry) for entry in entries]
    except ValueError:
        raise ValueError(f"weights are {weights!r}. Write a number for each photo, separated by commas: 1, 1, 0.5.") from None
    if len(numbers) != photos:
        raise ValueError(f"There are {len(numbers)} weights ({weights}) for {photos} faces. Write a number for each of them.")
    return numbers
