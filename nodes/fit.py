"""Which encoder belongs to which UNet: told before the sampler meets tensors of other shapes."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from ..faceclip.tensor_file import CheckpointError, open_tensor_file
from ..faceclip.unet_names import unet_in
from .encoder_model import EncoderModel
from .folders import UNET_FOLDERS, find_file


def require_fit(encoder: EncoderModel, width: int, unet_name: str) -> None:
    """Raise ValueError unless the encoder's conditioning is as wide as the UNet wants it (2048 for SDXL)."""
    if encoder.conditioning_width != width:
        raise ValueError(
            f"Encoder and UNet are of different sizes: the encoder's conditioning is {encoder.conditioning_width} wide, and "
            f"{unet_name} wants {width}. Choose files that belong together: face_clip_encoder.pt with unet.pt, or the two mini "
            "files that come with the pack."
        )


def require_fit_of_file(encoder: EncoderModel, unet_name: str) -> None:
    """As `require_fit`, of a UNet that another node loads.

    A file that is not there, or tells no width, is left to that node.
    """
    if width := width_of_file(unet_name):
        require_fit(encoder, width, unet_name)


def width_of_file(unet_name: str) -> int | None:
    """Width of the conditioning that a UNet file wants: 2048 for SDXL.

    None for a file that is not there, or has no such UNet in it, as those of FLUX.
    """
    try:
        path = find_file(unet_name, UNET_FOLDERS)
        return _width(path, path.stat().st_mtime_ns)
    except (FileNotFoundError, CheckpointError):
        return None


@lru_cache(maxsize=16)
def _width(path: Path, changed: int) -> int | None:
    """Width of the conditioning that a UNet file wants, by what is listed in it; `changed` is when it was written."""
    shapes = (
        entry.shape for name, entry in unet_in(open_tensor_file(path)).entries.items() if name.endswith("attn2.to_k.weight")
    )
    return next((int(shape[-1]) for shape in shapes), None)
