"""What a sample becomes in a batch: decoded pictures at the sizes the towers want."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from faceclip.face import CROP_SIZE, FaceError
from faceclip.face.photo import read_photo

from .captions import caption_ids
from .shards import Sample


@dataclass(frozen=True)
class DecodeSample:
    """Sample -> `caption` and its `ids`, and on demand `image` and `face`.

    Deterministic: the targets fit every epoch.
    """

    image_size: int | None = None
    """Side in pixels of `image`, uint8 [3, size, size]: the shorter side resized to it, the middle cut out, as CLIP
    does. None leaves the photograph undecoded."""
    faces: bool = True
    """Whether to decode `face`, uint8 [3, 448, 448]; zeros for a sample without one."""

    def __call__(self, sample: Sample, random: np.random.Generator) -> dict[str, Any]:
        """
        Raises:
            ValueError: the caption is blank, a picture cannot be decoded, or the face is not 448 x 448.
        """
        if not sample.caption.strip():
            raise ValueError("its caption is missing. Add one, or leave the sample out")
        entries: dict[str, Any] = {"caption": sample.caption, "ids": caption_ids(sample.caption).numpy()}
        if self.image_size is not None:
            entries["image"] = clip_crop(decode(sample.image, "photograph", 2 * self.image_size), self.image_size)
        if self.faces:
            entries["face"] = face_pixels(sample.face)
        return entries


def decode(data: bytes, what: str, least: int | None = None) -> Image.Image:
    """`decode_pixels` as a picture of Pillow's."""
    return Image.fromarray(decode_pixels(data, what, least))


def decode_pixels(data: bytes, what: str, least: int | None = None) -> np.ndarray:
    """A stored picture as RGB, uint8 [H, W, 3], read as `train.prepare` reads pictures: upright, and over white.

    Raises ValueError, naming `what` it is, for bytes that are no picture or cut short.

    With `least` a large JPEG may come back smaller, each side at least so many pixels: its decoder leaves out
    what the resize after it would average away. At twice the final size that is 3.5 times as fast, and 0.25 of
    255 off on average.
    """
    if not data:
        raise ValueError(f"its {what} is missing")
    try:
        return read_photo(data, what, least).pixels
    except FaceError as error:
        raise ValueError(f"its {what} is not a picture, or is cut short ({error})") from error


def face_pixels(data: bytes | None) -> np.ndarray:
    """A stored crop as uint8 [3, 448, 448]; None gives zeros, which the encoder reads as "no face".

    It lies in memory as decoded, rows of pixels of three colours: turning it over there would cost as much as
    copying it does, and a batch of them is turned over by its strides.

    Raises:
        ValueError: the crop has another size.
    """
    if data is None:
        return np.zeros((CROP_SIZE, CROP_SIZE, 3), dtype=np.uint8).transpose(2, 0, 1)
    pixels = decode_pixels(data, "face")
    height, width, _ = pixels.shape
    if (width, height) != (CROP_SIZE, CROP_SIZE):
        raise ValueError(
            f"its face is {width} x {height} px where {CROP_SIZE} x {CROP_SIZE} is expected: "
            "make the crop with faceclip.face.align_face, or the shards with train.prepare"
        )
    return pixels.transpose(2, 0, 1)


def decode_face(data: bytes | None) -> np.ndarray:
    """`face_pixels` as float32 in [0, 1]."""
    return face_pixels(data).astype(np.float32) / 255


def clip_crop(picture: Image.Image, size: int) -> np.ndarray:
    """CLIP's view of a picture, uint8 [3, size, size]: bicubic to the shorter side, then the middle.

    Rounded as torchvision rounds, by whose transforms CLIP was trained:
    the longer side down, an odd margin to even.
    """
    short = min(picture.size)
    width, height = (size if side == short else int(size * side / short) for side in picture.size)
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.array(resized.crop((left, top, left + size, top + size))).transpose(2, 0, 1)
