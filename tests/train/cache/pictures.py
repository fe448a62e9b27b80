"""Samples of small pictures, in several shapes."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from train.data.shards import Sample

SIZES = [(90, 90), (60, 120), (120, 60), (200, 190), (64, 128)]  # width, height


def picture(size: tuple[int, int], seed: int) -> bytes:
    small = np.random.default_rng(seed).integers(0, 255, (7, 7, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def samples(count: int, start: int = 0, faces: bool = True) -> list[Sample]:
    return [
        Sample(
            f"k{n:03d}",
            picture(SIZES[n % len(SIZES)], n),
            picture((448, 448), 1000 + n) if faces else None,
            f"a photo of person {n}",
            {"identity": n % 3},
        )
        for n in range(start, start + count)
    ]
