import numpy as np
import pytest
from PIL import Image, ImageFilter

from faceclip.face import Face, align_face, assess, load_detector
from faceclip.face.align import TEMPLATES


@pytest.fixture(scope="module")
def portrait(astronaut) -> np.ndarray:
    """The astronaut's head, uint8 [840, 840, 3]; the face is about 360 px."""
    return np.asarray(Image.fromarray(astronaut).crop((120, 10, 330, 220)).resize((840, 840), Image.Resampling.BICUBIC))


def _quality(image, face):
    return assess(align_face(image, face), face)


def _largest(detector, image):
    return max(detector.detect(image), key=lambda face: face.area)


def test_a_good_portrait_has_no_warning(portrait, dlib_detector):
    quality = _quality(portrait, _largest(dlib_detector, portrait))
    assert quality.warnings == ()
    assert quality.size > 300
    assert abs(quality.yaw) < 10


def test_a_face_under_112_px_is_called_small(astronaut, dlib_detector):
    quality = _quality(astronaut, _largest(dlib_detector, astronaut))
    assert 80 < quality.size < 112
    assert len(quality.warnings) == 1
    assert quality.warnings[0].startswith("small: the face is")
    assert "112" in quality.warnings[0]


@pytest.mark.parametrize("radius", [12, 25])
def test_a_blurred_face_is_called_blurred(portrait, dlib_detector, radius):
    face = _largest(dlib_detector, portrait)
    blurred = np.asarray(Image.fromarray(portrait).filter(ImageFilter.GaussianBlur(radius)))
    warnings = _quality(blurred, face).warnings
    assert [text.split(":")[0] for text in warnings] == ["blurred"]


def test_exposure_is_not_mistaken_for_blur(portrait, dlib_detector):
    face = _largest(dlib_detector, portrait)
    dark = (portrait * 0.3).astype(np.uint8)
    assert _quality(dark, face).sharpness == pytest.approx(_quality(portrait, face).sharpness, rel=0.25)


@pytest.mark.parametrize("kind", ["arcface", "dlib"])
@pytest.mark.parametrize(("share", "turned"), [(0.05, False), (0.45, True), (-0.45, True)])
def test_a_nose_far_from_between_the_eyes_is_called_turned(portrait, kind, share, turned):
    points = TEMPLATES[kind].astype(np.float32) * 1.5
    nose = 2 if kind == "arcface" else 4
    points[nose, 0] += share * 141 * 1.5
    quality = _quality(portrait, Face((0, 0, 448, 448), points, kind, 1.0))
    assert any(text.startswith("turned") for text in quality.warnings) == turned
    assert np.sign(quality.yaw) == np.sign(share)


def test_a_tilted_head_is_not_called_turned(portrait):
    angle = np.radians(40)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = ((TEMPLATES["arcface"] - 224) @ rotation.T + 420).astype(np.float32)
    assert abs(_quality(portrait, Face((0, 0, 448, 448), points, "arcface", 1.0)).yaw) < 5


def test_eyes_in_one_place_mean_a_profile(portrait):
    points = TEMPLATES["arcface"].astype(np.float32).copy()
    points[1] = points[0]
    assert _quality(portrait, Face((0, 0, 448, 448), points, "arcface", 1.0)).yaw == 90


@pytest.mark.parametrize("part", ["eyes", "mouth"])
def test_a_covered_face_is_called_covered(portrait, part):
    from faceclip.face import detect_faces

    covered = portrait.copy()
    top, bottom = (360, 410) if part == "eyes" else (460, 700)
    covered[top:bottom, 200:620] = (15, 15, 15) if part == "eyes" else (225, 232, 238)
    (face,) = detect_faces(load_detector("yunet"), covered)
    assert [text.split(":")[0] for text in _quality(covered, face).warnings] == ["covered"]
    (bare,) = detect_faces(load_detector("yunet"), portrait)
    assert _quality(portrait, bare).warnings == () and abs(_quality(portrait, bare).yaw) < 10


@pytest.mark.parametrize(
    ("kept", "missing"),
    [((200, 0, 840, 840), 0), ((350, 0, 840, 840), 19), ((0, 330, 840, 840), 19), ((0, 0, 840, 560), 0)],
    ids=["beside it", "left cheek", "forehead", "chin whole"],
)
def test_a_face_that_the_photos_edge_cuts_is_called_cut_off(portrait, kept, missing):
    (face,) = load_detector("yunet").detect(portrait)
    x0, y0, x1, y1 = kept
    part = portrait[y0:y1, x0:x1]
    moved = Face(face.box, face.landmarks - np.float32((x0, y0)), face.landmark_kind, 1.0, face.spread)
    warnings = _quality(part, moved).warnings
    assert [text.split(":")[0] for text in warnings] == ["cut off"] * (missing > 0)
    if missing:
        told = int(warnings[0].split("lacks ")[1].split("%")[0])
        assert abs(told - missing) <= 2
    assert align_face(portrait, face).shown == 1.0
