"""From a face in a photo to the crop that the face tower was trained on:
ArcFace's five-point template at 448 px."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from .protocol import Face, FaceError, LandmarkKind

CROP_SIZE = 448

# ArcFace's template in 112 px: eye centres, nose tip, mouth corners, each from the picture's left to its right.
ARCFACE_112 = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)
# Where dlib's five points fall on crops aligned to that template (means over published FaceCLIP crops), in 448 px.
DLIB_448 = ((323.2, 208.4), (266.3, 212.9), (122.1, 211.5), (179.0, 214.3), (224.8, 321.3))

TEMPLATES: dict[LandmarkKind, np.ndarray] = {
    "arcface": np.array(ARCFACE_112) * (CROP_SIZE / 112),
    "dlib": np.array(DLIB_448),
}
"""Landmarks [5, 2] (x, y) on a crop of CROP_SIZE pixels, by kind."""

# Points all over an oval from forehead to chin and from cheek to cheek, on a crop of CROP_SIZE pixels.
_GRID = np.stack(np.meshgrid(np.linspace(-1, 1, 32), np.linspace(-1, 1, 32)), -1).reshape(-1, 2)
_OVAL = _GRID[np.linalg.norm(_GRID, axis=1) <= 1] * (120, 165) + (223, 262)


@dataclass(frozen=True, eq=False)
class AlignedFace:
    """A face turned upright, centred and scaled to the template."""

    image: np.ndarray
    """[size, size, 3] float32 in [0, 1], RGB; black where the photo ends."""
    matrix: np.ndarray
    """[2, 3] float64: photo pixel (x, y, 1) -> crop pixel."""
    shown: float = 1.0
    """Share of the face, an oval on the template, that lies within the photo; 0 to 1."""


def similarity_transform(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the rotation, uniform scale and shift [2, 3] that take `source` [n, 2] nearest to `target` [n, 2].

    Least squares in closed form (Umeyama 1991); never a mirror image.

    Raises:
        FaceError: the source points all lie in one place.
    """
    source, target = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    from_centre, to_centre = source - source.mean(0), target - target.mean(0)
    spread = (from_centre**2).sum()
    if not np.isfinite(spread) or spread < 1e-9:
        raise FaceError("The landmarks of this face all lie in one place, so it cannot be aligned. Use another photo.")
    left, stretch, right = np.linalg.svd(to_centre.T @ from_centre)
    keep_handedness = np.array([1.0, np.sign(np.linalg.det(left @ right))])
    rotation = left * keep_handedness @ right
    scale = (stretch * keep_handedness).sum() / spread
    return np.column_stack([scale * rotation, target.mean(0) - scale * rotation @ source.mean(0)])


def align_face(image: np.ndarray, face: Face, size: int = CROP_SIZE) -> AlignedFace:
    """Cut `face` out of `image` (uint8 [H, W, 3] RGB), aligned to the template at `size` pixels.

    Raises:
        FaceError: the face's landmarks are degenerate.
    """
    template = TEMPLATES[face.landmark_kind] * (size / CROP_SIZE)
    matrix = similarity_transform(face.landmarks, template)
    return AlignedFace(warp(image, matrix, size), matrix, _shown(image, matrix, size))


def _shown(image: np.ndarray, matrix: np.ndarray, size: int) -> float:
    there = (_OVAL * (size / CROP_SIZE) - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    inside = (there >= -0.5) & (there <= np.array([image.shape[1], image.shape[0]]) - 0.5)
    return float(inside.all(1).mean())


def warp(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Return the crop float32 [size, size, 3] in [0, 1] that `matrix` [2, 3] (image pixel -> crop pixel) describes.

    Where the crop is smaller than what it shows, the photo is shrunk first: sampling alone would alias.
    """
    # From here on coordinates count from the corner of the first pixel, not from its centre.
    linear = matrix[:, :2]
    shift = matrix[:, 2] + 0.5 - linear @ np.array([0.5, 0.5])
    to_photo = np.linalg.inv(linear)
    corners = (np.array([(0, 0), (size, 0), (size, size), (0, size)]) - shift) @ to_photo.T
    pixels_per_crop_pixel = np.sqrt(abs(np.linalg.det(to_photo)))

    region, offset = _region(image, corners, margin=2 * pixels_per_crop_pixel + 2)
    if region.size == 0:
        return np.zeros((size, size, 3), dtype=np.float32)
    picture = Image.fromarray(region)
    ratio = np.ones(2)
    if pixels_per_crop_pixel > 1:
        small = [max(1, round(side / pixels_per_crop_pixel)) for side in picture.size]
        ratio = np.array(small) / picture.size
        picture = picture.resize((small[0], small[1]), Image.Resampling.LANCZOS, reducing_gap=3.0)

    to_region = ratio[:, None] * to_photo
    start = ratio * (-to_photo @ shift - offset)
    coefficients = (*to_region[0], start[0], *to_region[1], start[1])
    crop = picture.transform((size, size), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
    return np.asarray(crop, dtype=np.float32) / 255


def _region(image: np.ndarray, corners: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the part of the image around `corners` and the (x, y) of its first pixel."""
    height, width = image.shape[:2]
    x0, y0 = np.clip(np.floor(corners.min(0) - margin), 0, (width, height)).astype(int)
    x1, y1 = np.clip(np.ceil(corners.max(0) + margin), 0, (width, height)).astype(int)
    return np.ascontiguousarray(image[y0:y1, x0:x1]), np.array([x0, y0])
