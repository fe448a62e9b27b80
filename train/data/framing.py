"""How a photograph is shown to SDXL: aspect buckets, the resize and crop
that fill one, and the size conditions that tell it.

The conditions describe the pixels they were made from, so a framing is
drawn once and kept with the latent (SDXL, section 2.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from faceclip.face import FaceError
from faceclip.face.photo import photo_size

from .shards import Sample, ShardError, ShardSource

Size = tuple[int, int]
"""Height, width in pixels."""

_FRAMED_AT_ONCE = 1 << 16


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
    """Sizes in multiples of `step` of at most `resolution`^2 pixels, from
    `widest` : 1 upright to `widest` : 1 across.

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
    (height, width, top, left, rows, columns), _ = (array[0].tolist() for array in frame_all(np.array([original]), buckets))
    return Framing((height, width), (top, left), (rows, columns))


def frame_all(originals: np.ndarray, buckets: Sequence[Size]) -> tuple[np.ndarray, np.ndarray]:
    """`frame` for N photographs, int [N, 2] of height and width: their
    conditions int32 [N, 6], and buckets' numbers int32 [N].

    Works in stretches: there may be tens of millions.
    """
    sizes = np.array(buckets)
    by_size = np.lexsort((sizes[:, 1], sizes[:, 0]))  # of two equally near, the first
    aspects = np.log(sizes[by_size, 0] / sizes[by_size, 1])
    conditions, nearest = np.zeros((len(originals), 6), dtype=np.int32), np.zeros(len(originals), dtype=np.int32)
    for first in range(0, len(originals), _FRAMED_AT_ONCE):
        part = slice(first, first + _FRAMED_AT_ONCE)
        some = originals[part]
        aspect = np.log(some[:, 0] / some[:, 1])
        nearest[part] = by_size[np.abs(aspect[:, None] - aspects).argmin(axis=1)]
        targets = sizes[nearest[part]]
        crops = (cover(some, targets) - targets) // 2
        conditions[part] = np.concatenate([some, crops, targets], axis=1)
    return conditions, nearest


def cover(originals: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The least sizes [N, 2] of the photographs' own aspects that cover `targets` [N, 2]."""
    scales = (targets / originals).max(axis=1, keepdims=True)
    return np.maximum(targets, np.rint(originals * scales).astype(np.int64))


def cut(picture: Image.Image, framing: Framing) -> np.ndarray:
    """The pixels that a framing shows, uint8 [3, height, width].

    Raises:
        ValueError: the picture is not of the size that the framing was made for.
    """
    if (picture.height, picture.width) != framing.original:
        raise ValueError(f"its photograph is {picture.width} x {picture.height} px, its framing is for {framing.original[::-1]}")
    height, width = cover(np.array([framing.original]), np.array([framing.target]))[0].tolist()
    resized = picture.resize((width, height), Image.Resampling.LANCZOS)
    (top, left), (rows, columns) = framing.crop, framing.target
    return np.array(resized.crop((left, top, left + columns, top + rows))).transpose(2, 0, 1)


# Columns of `places`: bucket, row in the bucket's array, then the six numbers of `Framing.condition`.
_BUCKET, _SLOT, _CONDITION = 0, 1, slice(2, 8)
_MEASURED_AT_ONCE = 4096


def place(source: ShardSource, buckets: Sequence[Size], threads: int) -> np.ndarray:
    """int32 [N, 8]: each photograph's bucket, its row in the bucket's array, and its size conditions."""
    sizes = source.sizes()
    # Shards of train.prepare tell sizes in their indexes; of others' each photograph's header is read.
    unknown = np.flatnonzero(sizes[:, 0] == 0)
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(unknown), _MEASURED_AT_ONCE):
            some = unknown[first : first + _MEASURED_AT_ONCE]
            sizes[some] = list(pool.map(lambda row: _measure(source[int(row)]), some))
    places = np.zeros((len(sizes), 8), dtype=np.int32)
    places[:, _CONDITION], places[:, _BUCKET] = frame_all(sizes, buckets)
    for bucket in range(len(buckets)):
        inside = places[:, _BUCKET] == bucket
        places[inside, _SLOT] = np.arange(inside.sum())
    return places


def _measure(sample: Sample) -> Size:
    """Height and width, upright, by the picture's header."""
    try:
        return photo_size(sample.image, f"{sample.key!r} (in a shard)")
    except FaceError as error:
        raise ShardError(f"{error} Or take this sample out.") from error
