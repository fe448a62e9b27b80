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
# Degrees. Published crops stay within 16. Of drawn heads of known turn (`benchmarks/face_warnings.py`) few are warned of at 20
# degrees and most from 30 on; far aside the detectors' points lag behind, so that 50 degrees may be called 30.
TURNED_ABOVE = {"arcface": 24.0, "dlib": 30.0}
# How far the nose stands out from the plane of the other points, in distances between the eyes' centres.
NOSE_DEPTH = {"arcface": 0.50, "dlib": 0.40}
# How far several readings of a face's points lie apart, in px of a crop of 448: 2 to 7 for a face that is there to see, 8 to 20
# with a bar over the eyes or a mask over the mouth, with goggles, or in the dark.
COVERED_ABOVE = 8.5
# Share of the face's oval that lies within the photo.
CUT_BELOW = 0.9


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
    roll: float = 0.0
    """How far the head is tipped in the photo, in degrees clockwise, -180 to 180; the crop is upright."""

    @property
    def lies(self) -> str:
        """How the head lies in the photo, in words; empty for one that stands more or less upright."""
        if abs(self.roll) > 135:
            return "stands on its head (180 degrees)"
        return f"lies on its side ({90 if self.roll > 0 else -90} degrees)" if abs(self.roll) > 45 else ""


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
    cut = aligned.shown < CUT_BELOW
    if cut:
        warnings.append(
            f"cut off: the photo ends within the face and lacks {1 - aligned.shown:.0%} of it; use one that shows all"
        )
    if abs(yaw) > TURNED_ABOVE[face.landmark_kind]:
        warnings.append(f"turned: the head looks about {abs(yaw):.0f} degrees aside; use a photo from the front")
    elif not cut and sharpness >= BLURRED_BELOW and face.spread is not None and face.spread > COVERED_ABOVE:
        warnings.append("covered: something hides a part of the face, or the light does; use a photo that shows all of it")
    roll = -math.degrees(math.atan2(aligned.matrix[1, 0], aligned.matrix[0, 0]))
    return FaceQuality(face.size, sharpness, yaw, tuple(warnings), roll)


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
        middle = (left + right) / 2
    else:
        left, right, nose = points[0], points[1], points[2]
        middle = points[[0, 1, 3, 4]].mean(0)
    across = right - left
    distance = np.linalg.norm(across)
    if distance == 0:
        return 90.0
    aside = float((nose - middle) @ across) / distance**2
    return math.degrees(math.atan(aside / NOSE_DEPTH[face.landmark_kind]))
