"""How far alignment drifts: paste aligned crops into larger pictures, find and align them again, compare.

    python benchmarks/alignment.py FOLDER_OF_ALIGNED_448_PX_CROPS [--backend yunet]

Drift is the distance, in pixels of the 448 px crop, between ArcFace's five template points and the same
points taken into the picture by the known transform and back by the estimated one.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from faceclip.face import CROP_SIZE, FaceDetector, align_face, detect_faces, load_detector, load_photo
from faceclip.face.align import TEMPLATES

PICTURE = (1400, 1200)  # width, height
SCALES = (0.3, 0.6, 1.0, 1.6)
DEGREES = (-12.0, -5.0, 0.0, 5.0, 12.0)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure the drift of face alignment on a folder of aligned crops.")
    parser.add_argument("folder", type=Path, help="aligned crops of 448 x 448 pixels (png, jpg, webp)")
    parser.add_argument("--backend", default="yunet", choices=("auto", "yunet", "dlib", "insightface"))
    options = parser.parse_args(arguments)
    files = sorted(file for file in options.folder.iterdir() if file.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
    if not files:
        raise SystemExit(f"There are no images in {options.folder}.")
    detector = load_detector(options.backend)
    start, drifts, missed = time.perf_counter(), [], 0
    for file in files:
        found = [drift(detector, picture, matrix) for picture, matrix in pasted(load_photo(file))]
        own = [value for value in found if value is not None]
        missed += len(found) - len(own)
        drifts += own
        print(f"{file.name:30} {summary(own)}  missed {len(found) - len(own)} of {len(found)}")
    print(f"{'all':30} {summary(drifts)}  missed {missed} of {missed + len(drifts)}  ({detector.name})")
    print(f"{(time.perf_counter() - start) / (missed + len(drifts)):.2f} s per picture of {PICTURE[0]} x {PICTURE[1]}")


def summary(drifts: list[float]) -> str:
    """Describe drifts in px of 448: their mean, 90th percentile and maximum."""
    if not drifts:
        return "no face found"
    return f"mean {np.mean(drifts):5.2f}  p90 {np.percentile(drifts, 90):5.2f}  max {np.max(drifts):5.2f} px of 448"


def pasted(crop: np.ndarray, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pictures that show `crop` at every scale and rotation,
    somewhere, with the matrix [2, 3] crop -> picture."""
    generator = np.random.default_rng(seed)
    for scale in SCALES:
        for degrees in DEGREES:
            reach = CROP_SIZE * scale * 0.6  # half the crop's diagonal, nearly: the face itself stays inside
            centre = [generator.uniform(min(reach, side / 2), max(side - reach, side / 2)) for side in PICTURE]
            yield paste(crop, scale, degrees, (centre[0], centre[1]))


def paste(crop: np.ndarray, scale: float, degrees: float, centre: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture (uint8 [H, W, 3]) with `crop` scaled, rotated and centred at `centre`, and the matrix [2, 3]."""
    side = round(CROP_SIZE * scale)
    small = Image.fromarray(crop).resize((side, side), Image.Resampling.LANCZOS)
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    rotation = np.array([[cosine, -sine], [sine, cosine]])
    # Pillow wants the way back, picture -> crop, counted from pixel corners.
    back = rotation.T
    start = np.array([side / 2, side / 2]) - back @ np.array(centre)
    coefficients = (*back[0], start[0], *back[1], start[1])
    layer = small.transform(PICTURE, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
    cover = Image.new("L", (side, side), 255)
    cover = cover.transform(PICTURE, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
    picture = _background().copy()
    picture.paste(layer, mask=cover)

    linear = rotation * side / CROP_SIZE
    middle = (CROP_SIZE - 1) / 2
    shift = np.array(centre) - 0.5 - linear @ np.array([middle, middle])
    return np.asarray(picture), np.column_stack([linear, shift])


@cache
def _background() -> Image.Image:
    y, x = np.mgrid[: PICTURE[1], : PICTURE[0]]
    return Image.fromarray(np.stack([90 + x // 25, 110 + y // 25, np.full_like(x, 120)], axis=-1).astype(np.uint8))


def drift(detector: FaceDetector, picture: np.ndarray, matrix: np.ndarray) -> float | None:
    """Return the mean drift of the template's five points, in px of 448; None where no face is found."""
    faces = detect_faces(detector, picture)
    if not faces:
        return None
    points = TEMPLATES["arcface"]
    there = points @ matrix[:, :2].T + matrix[:, 2]
    estimated = align_face(picture, faces[0]).matrix
    again = there @ estimated[:, :2].T + estimated[:, 2]
    return float(np.linalg.norm(again - points, axis=1).mean())


if __name__ == "__main__":
    main()
