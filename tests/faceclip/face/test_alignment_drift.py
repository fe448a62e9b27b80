"""Where a face lies in a picture, how large and how tilted, must not
change its crop: the measure of benchmarks/alignment.py."""

import numpy as np
import pytest

from faceclip.face import Face, align_face

# Eye centres, nose tip and mouth corners, marked by eye on scikit-image's `astronaut`.
MARKED = np.array([(203.0, 101.0), (247.0, 103.2), (223.0, 126.0), (203.3, 139.5), (244.0, 141.0)], dtype=np.float32)


def _drifts(alignment, detector, crop: np.ndarray) -> list[float]:
    found = [alignment.drift(detector, picture, matrix) for picture, matrix in alignment.pasted(crop)]
    assert len(found) == len(alignment.SCALES) * len(alignment.DEGREES)
    assert None not in found, "every pasted face is found"
    return found


@pytest.fixture(autouse=True)
def _three_tilts(alignment, monkeypatch) -> None:
    monkeypatch.setattr(alignment, "DEGREES", (-12.0, 0.0, 12.0))


@pytest.fixture(scope="module")
def own_crop(astronaut, dlib_detector) -> np.ndarray:
    return _crop(astronaut, dlib_detector.detect(astronaut)[0])


def _crop(image: np.ndarray, face: Face) -> np.ndarray:
    return (align_face(image, face).image * 255).round().astype(np.uint8)


def test_the_same_face_gives_the_same_crop_at_any_place_size_and_tilt(alignment, dlib_detector, own_crop):
    drifts = _drifts(alignment, dlib_detector, own_crop)
    assert np.mean(drifts) <= 7
    assert np.percentile(drifts, 90) <= 10


def test_dlibs_crop_agrees_with_landmarks_marked_by_hand(alignment, dlib_detector, astronaut):
    """One broad smile, which lifts the mouth that dlib's five points do not
    include: an individual face may be 12 px off."""
    crop = _crop(astronaut, Face((175, 76, 265, 166), MARKED, "arcface", 1.0))
    drifts = _drifts(alignment, dlib_detector, crop)
    assert max(drifts) <= 12.5
    assert max(drifts) - min(drifts) <= 2.5, "and always by the same amount"


def test_the_known_transform_of_a_pasted_crop_is_exact(alignment, own_crop):
    picture, matrix = alignment.paste(own_crop, 0.6, 12, (700, 500))
    corners = np.array([(0, 0), (447, 0), (447, 447), (0, 447)])
    middle = matrix[:, :2] @ np.array([223.5, 223.5]) + matrix[:, 2]
    assert np.allclose(middle, [699.5, 499.5])
    sides = np.linalg.norm(np.diff(corners @ matrix[:, :2].T, axis=0), axis=1)
    assert np.allclose(sides, 447 * 0.6, rtol=0.01)
    back = alignment.CROP_SIZE, np.column_stack([np.linalg.inv(matrix[:, :2]), -np.linalg.inv(matrix[:, :2]) @ matrix[:, 2]])
    from faceclip.face.align import warp

    again = warp(picture, back[1], back[0])
    assert np.abs(again - own_crop / 255)[20:-20, 20:-20].mean() < 0.02


def test_the_command_measures_a_folder(alignment, own_crop, tmp_path, capsys, monkeypatch):
    from PIL import Image

    Image.fromarray(own_crop).save(tmp_path / "someone.png")
    monkeypatch.setattr(alignment, "SCALES", (0.6,))
    alignment.main([str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("someone.png")
    assert "missed 0 of 3" in lines[1]
    (tmp_path / "someone.png").unlink()
    with pytest.raises(SystemExit, match="no images"):
        alignment.main([str(tmp_path)])
