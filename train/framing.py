"""How a photograph is shown to SDXL: aspect buckets, the resize and crop that fill one, and the size conditions that tell it.

The conditions describe the pixels they were made from, so a framing is drawn once and kept with the latent (SDXL, section 2.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

Size = tuple[int, int]
"""Height, width in pixels."""


@dataclass(frozen=True)
class Framing:
    """What SDXL is told of a picture, each (height, width) or (top, left) in pixels."""

    original: Size
    """The photograph before it was resized."""
    crop: Size
    """Top and left edge of what is shown, in the resized photograph."""
    target: Size
    """What is shown: the bucket's size."""

    @property
    def condition(self) -> tuple[int, int, int, int, int, int]:
        """SDXL's `time_ids`: original height and width, crop top and left, target height and width."""
        return (*self.original, *self.crop, *self.target)


def aspect_buckets(resolution: int = 1024, step: int = 64, widest: float = 2.0) -> list[Size]:
    """Sizes in multiples of `step` of at most `resolution`^2 pixels, from `widest` : 1 upright to `widest` : 1 across.

    Raises:
        ValueError: the resolution is no multiple of the step.
    """
    if resolution < step or resolution % step:
        raise ValueError(f"The resolution is {resolution}; it must be a multiple of {step}.")
    sizes = set()
    for height in range(step, int(resolution * math.sqrt(widest)) + 1, step):
        width = resolution * resolution // height // step * step
        if max(height / width, width / height) <= widest:
            sizes |= {(height, width), (width, height)}
    return sorted(sizes)


def frame(original: Size, buckets: Sequence[Size]) -> Framing:
    """The bucket nearest in aspect, filled by the photograph's middle."""
    height, width = original
    target = min(buckets, key=lambda size: (abs(math.log(size[0] * width / (size[1] * height))), size))
    resized = cover(original, target)
    return Framing(original, ((resized[0] - target[0]) // 2, (resized[1] - target[1]) // 2), target)


def cover(original: Size, target: Size) -> Size:
    """The least size of the photograph's own aspect that covers `target`."""
    scale = max(target[0] / original[0], target[1] / original[1])
    return max(target[0], round(original[0] * scale)), max(target[1], round(original[1] * scale))


def cut(picture: Image.Image, framing: Framing) -> np.ndarray:
    """The pixels that a framing shows, uint8 [3, height, width].

    Raises:
        ValueError: the picture is not of the size that the framing was made for.
    """
    if (picture.height, picture.width) != framing.original:
        raise ValueError(f"its photograph is {picture.width} x {picture.height} px, its framing is for {framing.original[::-1]}")
    height, width = cover(framing.original, framing.target)
    resized = picture.resize((width, height), Image.Resampling.LANCZOS)
    (top, left), (rows, columns) = framing.crop, framing.target
    return np.array(resized.crop((left, top, left + columns, top + rows))).transpose(2, 0, 1)
