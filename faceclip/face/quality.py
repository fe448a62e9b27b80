"""How much of a person a crop shows: size, sharpness and turn, with warnings in an artist's words."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .align import AlignedFace
from .protocol import Face

# The face tower sees the crop at this size; a smaller face was enlarged and its detail is invented.
SEEN_SIZE = 112
# Published crops measure 0.07 to 0.44; blurred by 6 px of 448, where likeness is lost, all fall under 0.03.
BLURRED_BELOW = 0.03
TURNED_ABOVE = 30.0  # degrees; published crops stay within 16
# How far the nose stands out from the plane of the eyes, in distances between the eyes' centres.
NOSE_DEPTH = {"arcface": 0.55, "dlib": 0.40}


@dataclass(frozen=True)
class FaceQuality:
    """What was measured on one face; `warnings` is empty for a good portrait."""

    size: float
    """Longer side of the face's box in the photo, in pixels."""
    sharpness: float
    """Variance of the Laplacian over the variance of the crop, at the 112 px the face tower sees; no unit."""
    yaw: float
    """How far the head is turned, in degrees, roughly; 0 looks into the camera, positive to the picture's right."""
    warnings: tuple[str, ...]


def assess(aligned: AlignedFace, face: Face) -> FaceQuality:
    """Measure one face and say what an artist should know about it."""
    sharpness = _sharpness(aligned.image)
    yaw = _yaw(face)
    warnings = []
    if face.size < SEEN_SIZE:
        warnings.append(
            f"small: the face is {face.size:.0f} px, under {SEEN_SIZE}; likeness suffers, use a closer or larger photo"
        )
    if sharpness < BLURRED_BELOW:
        warnings.append("blurred: fine features are lost; use a sharper photo")
    if abs(yaw) > TURNED_ABOVE:
        warnings.append(f"turned: the head looks about {abs(yaw):.0f} degrees aside; use a photo from the front")
    return FaceQuality(face.size, sharpness, yaw, tuple(warnings))


def _sharpness(crop: np.ndarray) -> float:
    picture = Image.fromarray((crop * 255).round().astype(np.uint8)).convert("L")
    seen = picture.resize((SEEN_SIZE, SEEN_SIZE), Image.Resampling.BILINEAR)
    grey = np.asarray(seen, dtype=np.float64)
    # Only the face's middle: hair, background and the black beyond the photo's edge say nothing about focus.
    edge = SEEN_SIZE // 5
    grey = grey[edge:-edge, edge:-edge]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    return float(laplacian.var() / max(grey.var(), 1.0))


def _yaw(face: Face) -> float:
    points = face.landmarks.astype(np.float64)
    if face.landmark_kind == "dlib":
        left, right, nose = points[2:4].mean(0), points[0:2].mean(0), points[4]
    else:
        left, right, nose = points[0], points[1], points[2]
    across = right - left
    distance = np.linalg.norm(across)
    if distance == 0:
        return 90.0
    aside = float((nose - (left + right) / 2) @ across) / distance**2
    return math.degrees(math.atan(aside / NOSE_DEPTH[face.landmark_kind]))
