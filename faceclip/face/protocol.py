"""What every face detector gives and how it fails: `Face`, the `FaceDetector` protocol, and the errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np

LandmarkKind = Literal["arcface", "dlib"]
"""Which five points `Face.landmarks` holds.

Left and right are the picture's.

- `arcface`: left eye's centre, right eye's centre, tip of the nose, left and right corner of the mouth.
- `dlib`: right eye's outer and inner corner, left eye's outer and inner corner, base of the nose.
"""


class FaceError(ValueError):
    """A picture, or a choice about its faces, that cannot be used. The message says what to do."""

    __module__ = "faceclip"  # what ComfyUI prints before the sentence


class NoFaceError(FaceError):
    """One or more images have no (such) face; `indices` are their places in the batch."""

    __module__ = "faceclip"

    def __init__(self, message: str, indices: tuple[int, ...] = ()):
        super().__init__(message)
        self.indices = indices


class DetectorUnavailableError(RuntimeError):
    """A detector's package or model files are missing. The message names the command, or the folder and the URL."""

    __module__ = "faceclip"


@dataclass(frozen=True, eq=False)
class Face:
    """One face found in an image, in that image's pixels (the centre of the first pixel is 0, 0)."""

    box: tuple[float, float, float, float]
    """x0, y0, x1, y1; may reach beyond the image."""
    landmarks: np.ndarray
    """[5, 2] float32, (x, y); their meaning is `landmark_kind`."""
    landmark_kind: LandmarkKind
    confidence: float
    """0 to 1; about 0.5 is where true and false detections part, whichever the backend."""
    spread: float | None = None
    """How far the points of several readings of the face lie apart, in
    pixels of a crop of 448; None if it was read once."""

    @property
    def size(self) -> float:
        """The longer side of the box, in pixels."""
        x0, y0, x1, y1 = self.box
        return max(x1 - x0, y1 - y0)

    @property
    def area(self) -> float:
        """The box's area, in square pixels."""
        x0, y0, x1, y1 = self.box
        return (x1 - x0) * (y1 - y0)

    @property
    def centre(self) -> tuple[float, float]:
        """The middle of the box (x, y), in pixels."""
        x0, y0, x1, y1 = self.box
        return (x0 + x1) / 2, (y0 + y1) / 2


Pause = Callable[[], None]


class FaceDetector(Protocol):
    """What all backends are to the rest of this package."""

    name: str
    """For logs and errors, such as `dlib` or `InsightFace buffalo_l (CPU)`."""
    tried: str
    """What a detector has done that found nothing, such as `looked at 640 and 1280 px`."""

    def detect(self, image: np.ndarray) -> list[Face]:
        """Return the faces found by the usual look at `image`, uint8 [H, W, 3] RGB, in no particular order."""
        ...

    def passes(self, image: np.ndarray, pause: Pause | None = None) -> Iterator[list[Face]]:
        """Yield the faces of one look after the other (other sizes, slower models), the usual look first.

        Lazy: a later look costs nothing unless it is asked for. `pause` is called now and then within a look that
        takes seconds and holds the whole process: what it does there (wait, stop with an exception) is the caller's.
        """
        ...


@runtime_checkable
class BatchDetector(FaceDetector, Protocol):
    """A detector that looks at many pictures at once."""

    looks: int
    """How many looks `passes` yields."""

    def look(self, images: Sequence[np.ndarray], number: int) -> list[list[Face]]:
        """Return the faces of each image, uint8 [H, W, 3] RGB, at look `number`."""
        ...
