import numpy as np
import pytest

from faceclip.face import CROP_SIZE, Face, FaceError, align_face
from faceclip.face.align import TEMPLATES, similarity_transform, warp


def _similarity(scale: float, degrees: float, shift: tuple[float, float]) -> np.ndarray:
    angle = np.radians(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.column_stack([scale * rotation, shift])


def _map(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


@pytest.mark.parametrize("kind", ["arcface", "dlib"])
def test_the_transform_that_moved_the_landmarks_is_found_again(kind):
    known = _similarity(0.37, 31, (812, -40))
    found = similarity_transform(_map(known, TEMPLATES[kind]), TEMPLATES[kind])
    assert np.allclose(_map(found, _map(known, TEMPLATES[kind])), TEMPLATES[kind], atol=1e-6)


def test_the_template_is_where_published_crops_have_their_eyes_nose_and_mouth():
    """Mean landmarks of the aligned portraits published with the FaceCLIP release, in px of 448."""
    published = np.array([(150, 211), (296, 209), (225, 291), (164, 366), (288, 364)])
    assert np.abs(TEMPLATES["arcface"] - published).max() < 6


def test_dlibs_template_fits_arcfaces_face():
    """Its eyes lie on ArcFace's; the base of its nose lies below ArcFace's tip, two fifths of the way to the mouth."""
    right_eye, left_eye, nose = (TEMPLATES["dlib"][rows].mean(0) for rows in ([0, 1], [2, 3], [4]))
    arcface = TEMPLATES["arcface"]
    assert np.abs(left_eye - arcface[0]).max() < 7
    assert np.abs(right_eye - arcface[1]).max() < 7
    tip, mouth = arcface[2], arcface[3:].mean(0)
    assert np.abs(nose - (tip + 0.42 * (mouth - tip))).max() < 3


def test_one_bad_landmark_never_mirrors_the_face():
    mirrored = TEMPLATES["arcface"] * [-1, 1]
    matrix = similarity_transform(mirrored, TEMPLATES["arcface"])
    assert np.linalg.det(matrix[:, :2]) > 0


def test_the_fit_is_the_least_squares_one():
    generator = np.random.default_rng(1)
    source = TEMPLATES["arcface"] + generator.normal(0, 8, (5, 2))
    target = TEMPLATES["arcface"]
    matrix = similarity_transform(source, target)
    best = ((_map(matrix, source) - target) ** 2).sum()
    for change in generator.normal(0, 1e-3, (50, 4)):
        a, b = matrix[0, 0] + change[0], matrix[1, 0] + change[1]
        other = np.array([[a, -b, matrix[0, 2] + change[2]], [b, a, matrix[1, 2] + change[3]]])
        assert ((_map(other, source) - target) ** 2).sum() > best


def test_landmarks_in_one_place_are_refused():
    face = Face((0, 0, 9, 9), np.full((5, 2), 4, dtype=np.float32), "arcface", 1.0)
    with pytest.raises(FaceError, match="all lie in one place"):
        align_face(np.zeros((20, 20, 3), np.uint8), face)


def test_the_crop_has_the_promised_shape_and_range(astronaut, dlib_detector):
    crop = align_face(astronaut, dlib_detector.detect(astronaut)[0]).image
    assert crop.shape == (CROP_SIZE, CROP_SIZE, 3)
    assert crop.dtype == np.float32
    assert 0 <= crop.min() < 0.1
    assert 0.9 < crop.max() <= 1


def test_the_identity_transform_gives_the_image_back():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert np.allclose(warp(image, np.eye(2, 3), 64) * 255, image, atol=0.51)


@pytest.mark.parametrize("scale", [0.25, 1.0, 3.0])
def test_pixels_land_where_the_matrix_says(scale):
    """A bright Gaussian spot keeps its centre of mass, whether the crop shrinks, keeps or enlarges the photo."""
    y, x = np.mgrid[:400, :400]
    spot = np.exp(-((x - 210.3) ** 2 + (y - 180.6) ** 2) / (2 * 9**2)) * 255
    image = np.repeat(spot.round().astype(np.uint8)[:, :, None], 3, axis=2)
    matrix = _similarity(scale, 0, (0, 0))
    matrix[:, 2] = np.array([100, 100]) - matrix[:, :2] @ np.array([210.3, 180.6])
    crop = warp(image, matrix, 200)[:, :, 0].astype(np.float64)
    weight = np.clip(crop - 0.02, 0, None)
    rows, columns = np.mgrid[:200, :200]
    centre = np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()
    assert np.abs(centre - 100).max() < 0.1


def test_a_much_larger_photo_does_not_alias():
    """Stripes of one pixel are grey from afar; sampled without averaging they would come out black and white."""
    image = np.zeros((2000, 2000, 3), np.uint8)
    image[:, ::2] = 255
    crop = warp(image, _similarity(0.0713, 3, (20, 10)), 128)
    assert np.abs(crop[40:90, 40:90] - 0.5).max() < 0.02


def test_beyond_the_photo_the_crop_is_black():
    image = np.full((100, 100, 3), 200, np.uint8)
    crop = warp(image, _similarity(1, 0, (100, 0)), 150)
    assert crop[:90, :98].max() == 0
    assert np.allclose(crop[5:95, 105:145], 200 / 255, atol=0.01)
    assert warp(image, _similarity(1, 0, (500, 0)), 150).max() == 0
