"""Grey of more than 8 bits a pixel, as scanners, microscopes and depth maps have it, to RGB of 8."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from .protocol import FaceError

_STRIP = 1 << 22  # pixels converted at a time
_WHOLE_NUMBERS = (2**8, 2**12, 2**16, 2**24, 2**32)  # the ranges that grey of more than 8 bits is written in
_BITS, _WHITE_IS_ZERO = 258, 262  # tags of a TIFF


def deep_grey(picture: Image.Image, name: str) -> Callable[[Image.Image], Image.Image]:
    """How parts of such a picture become RGB, by its range.

    Pillow's own conversion clips everything above 255 to white.

    Raises FaceError, with the picture's `name`, for values of no known range.
    """
    least, most = 0.0, 0.0
    for _, part in strips(picture):
        values = np.asarray(part)
        if not np.isfinite(values).all():
            raise FaceError(f"The image {name} holds values that are not finite numbers. Save it again from where it was made.")
        least, most = min(least, float(values.min(initial=0))), max(most, float(values.max(initial=0)))
    if picture.mode != "F":
        top = next((end for end in _WHOLE_NUMBERS if most < end), 2**64) - 1
    elif most <= 1.5:  # a little above 1 is what sharpening leaves
        top = 1
    else:
        top = 255 if most < 300 else 65535
    if (picture.mode == "F" and 1.5 < most < 16) or least < (-top / 4 if picture.mode == "F" else 0):  # a little below 0, too
        raise FaceError(
            f"The image {name} holds grey from {least:.3g} to {most:.3g}, in none of the ranges 0 to 1, 0 to 255 and 0 to 65535. "
            "Save it as PNG or JPEG."
        )
    white = _white_of(picture)

    def convert(part: Image.Image) -> Image.Image:
        grey = np.asarray(part).astype(np.float32 if top <= 65535 else np.float64)
        grey = (grey if white is None else white - grey) * (255 / (white or top))
        return Image.fromarray(np.clip(grey.round(), 0, 255).astype(np.uint8)).convert("RGB")

    return convert


def _white_of(picture: Image.Image) -> int | None:
    """The number that stands for black in a TIFF whose white is 0, as X-rays are kept.

    None for all others: Pillow itself turns those of 8 bits over.
    """
    tags = getattr(picture, "tag_v2", {})
    bits = tags.get(_BITS, (8,))[0]
    return 2**bits - 1 if tags.get(_WHITE_IS_ZERO) == 0 and bits in (12, 16) else None


def strips(picture: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """A picture in parts of some million pixels, each with its first row."""
    width, height = picture.size
    rows = max(1, _STRIP // max(1, width))
    if rows >= height:
        yield 0, picture
        return
    for top in range(0, height, rows):
        yield top, picture.crop((0, top, width, min(height, top + rows)))
