from dataclasses import replace

import numpy as np
import pytest

from faceclip.face.preview import CHOSEN, OTHER, WARNED, draw_faces, draw_label

GREY = np.full((300, 400, 3), 90, np.uint8)


def _has(picture, colour) -> bool:
    return bool((picture == colour).all(-1).any())


def test_chosen_other_and_doubtful_faces_differ_in_colour(face_at):
    faces = [face_at(100, 150), face_at(300, 150)]
    assert _has(draw_faces(GREY, faces, [[], []], {0}), CHOSEN)
    assert _has(draw_faces(GREY, faces, [[], []], {0}), OTHER)
    doubtful = draw_faces(GREY, faces, [["small"], []], {0})
    assert _has(doubtful, WARNED)
    assert not _has(doubtful, CHOSEN)


def test_every_face_bears_its_own_number(face_at):
    face = face_at(200, 150)
    alone = draw_faces(GREY, [face], [[]], {0})
    second = draw_faces(GREY, [face_at(-500, -500), face], [[], []], {1})
    label = (slice(75, 100), slice(148, 200))
    assert not np.array_equal(alone[label], second[label])


@pytest.mark.parametrize("place", [(0, 0), (399, 299), (-60, 150), (200, 900)])
def test_a_box_at_the_edge_still_shows_its_label(face_at, place):
    assert _has(draw_faces(GREY, [face_at(*place)], [["blurred"]], {0}), WARNED)


def test_a_picture_of_one_pixel_can_be_drawn_on(face_at):
    assert draw_faces(GREY[:1, :1], [face_at(0, 0)], [[]], {0}).shape == (1, 1, 3)


def test_without_faces_the_picture_stays(face_at):
    assert np.array_equal(draw_faces(GREY, [], [], set()), GREY)


def test_a_larger_or_surer_face_has_another_label(face_at):
    label = (slice(60, 100), slice(140, 330))
    face = face_at(200, 150)
    labels = {
        draw_faces(GREY, [other], [[]], {0})[label].tobytes()
        for other in (face, replace(face, confidence=face.confidence / 2), replace(face, box=(*face.box[:3], face.box[3] + 30)))
    }
    assert len(labels) == 3


@pytest.mark.parametrize(("good", "colour"), [(True, CHOSEN), (False, WARNED), (None, OTHER)])
def test_a_pictures_label_tells_good_from_bad_and_covers_its_corner_alone(good, colour):
    labelled = draw_label(GREY, "1 - 0.953", good)
    assert _has(labelled[:40, :120], colour)
    assert np.array_equal(labelled[40:], GREY[40:]) and np.array_equal(labelled[:, 120:], GREY[:, 120:])
