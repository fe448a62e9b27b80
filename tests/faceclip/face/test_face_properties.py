"""For any box, wherever it lies, and any turn of a face: crops, masks and
previews come out, and landmarks where they belong."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faceclip.face import Face, FaceChoice, faces_from_images
from faceclip.face.align import TEMPLATES, align_face
from faceclip.face.detect import SMALLEST_IMAGE
from faceclip.face.preview import draw_faces

ANY = settings(derandomize=True, deadline=None)
SIZES = st.tuples(st.integers(1, 200), st.integers(1, 200))
BOXES = st.tuples(st.floats(-300, 300), st.floats(-300, 300), st.floats(0.5, 400), st.floats(0.5, 400))


def _face(box: tuple[float, float, float, float], turn: float = 0.0) -> Face:
    """A face that fills a box (x, y, width, height), turned by radians."""
    x, y, width, height = box
    turned = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    points = (TEMPLATES["arcface"] / 448 - 0.5) @ turned.T * min(width, height) + (x + width / 2, y + height / 2)
    return Face((x, y, x + width, y + height), points.astype(np.float32), "arcface", 0.9)


class _Finds:
    """A detector that finds what it was told."""

    name = "told"

    def __init__(self, faces: list[Face]):
        self._faces = faces

    def detect(self, image: np.ndarray) -> list[Face]:
        return list(self._faces)

    def passes(self, image: np.ndarray):
        yield self.detect(image)


@ANY
@given(SIZES, BOXES, st.floats(-math.pi, math.pi))
def test_landmarks_of_any_face_come_to_lie_on_the_template(size, box, turn) -> None:
    face = _face(box, turn)
    found = align_face(np.zeros((*size, 3), np.uint8), face)
    placed = face.landmarks @ found.matrix[:, :2].T + found.matrix[:, 2]
    # Float32 landmarks a few hundred pixels away, seen through a box of half a pixel, are rounded by that much.
    assert np.abs(placed - TEMPLATES["arcface"]).max() < 0.05 * max(1, 448 / min(box[2:]) / 100)
    assert found.image.shape == (448, 448, 3) and found.image.min() >= 0 and found.image.max() <= 1


@ANY
@given(SIZES, st.lists(BOXES, min_size=1, max_size=4), st.integers(0, 3), st.integers(1, 4))
def test_any_boxes_give_crops_masks_and_previews_of_the_right_size(size, boxes, index, count) -> None:
    image = torch.rand(1, *size, 3, generator=torch.Generator().manual_seed(0))
    detector = _Finds([_face(box) for box in boxes])
    found = faces_from_images(image, detector, FaceChoice("confidence", index, count), "text only")
    boxes = boxes if min(size) >= SMALLEST_IMAGE else []  # no detector is asked for faces in less
    expected = min(count, max(0, len(boxes) - index))
    assert found.count == expected and found.aligned.shape == (max(1, expected), 448, 448, 3)
    assert found.mask.shape == (1, *size) and set(found.mask.unique().tolist()) <= {0.0, 1.0}
    assert found.preview.shape == image.shape
    for value in (found.aligned, found.preview):
        assert bool(value.isfinite().all()) and float(value.min()) >= 0 and float(value.max()) <= 1


@ANY
@given(SIZES, st.lists(BOXES, max_size=4), st.text(max_size=12))
def test_a_preview_can_be_drawn_of_any_boxes_with_any_notes(size, boxes, note) -> None:
    image = np.zeros((*size, 3), np.uint8)
    drawn = draw_faces(image, [_face(box) for box in boxes], [[note]] * len(boxes), set(range(len(boxes))))
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
