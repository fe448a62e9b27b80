"""The pack's own detector: finds, turns, points, batches; and what is no face."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from faceclip.face import DetectorUnavailableError, align_face, detect_faces, load_detector, yunet_backend
from faceclip.face import yunet_networks as networks
from faceclip.face.align import TEMPLATES
from faceclip.face.yunet_backend import YuNetDetector


@pytest.fixture(scope="module")
def detector() -> YuNetDetector:
    found = load_detector("yunet")
    assert isinstance(found, YuNetDetector)
    return found


def _roll(face) -> float:
    across = face.landmarks[1] - face.landmarks[0]
    return float(np.degrees(np.arctan2(across[1], across[0])))


def test_it_finds_the_face_and_its_five_points(astronaut, detector):
    (face,) = detect_faces(detector, astronaut)
    assert face.landmark_kind == "arcface" and face.landmarks.dtype == np.float32
    assert face.confidence > 0.9
    assert np.allclose(face.centre, (222, 116), atol=12)
    marked = np.array([(204, 101), (247, 104), (223, 126), (204, 140), (245, 142)])  # by eye
    assert np.abs(face.landmarks - marked).max() < 4


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_photo_on_its_side_or_head_gives_the_same_crop(astronaut, detector, quarters):
    upright = align_face(astronaut, detect_faces(detector, astronaut)[0]).image
    turned = np.ascontiguousarray(np.rot90(astronaut, quarters))
    (face,) = detect_faces(detector, turned)
    assert abs((_roll(face) + 90 * quarters + 180) % 360 - 180) < 6
    assert np.abs(align_face(turned, face).image - upright).mean() < 0.03


@pytest.mark.parametrize("degrees", [-60, -30, 30, 60])
def test_a_tilted_head_is_found_at_its_angle(astronaut, detector, degrees):
    tilted = Image.fromarray(astronaut[:256, 90:346]).rotate(degrees, Image.Resampling.BICUBIC, fillcolor=(120, 120, 120))
    (face,) = detect_faces(detector, np.asarray(tilted))
    assert abs(_roll(face) + degrees - 2) < 5  # she tips her head by 2 degrees


def test_a_large_photo_and_a_small_one_give_the_same_face(astronaut, detector):
    large = np.kron(astronaut, np.ones((6, 6, 1), dtype=np.uint8))
    (small_face,), (large_face,) = detect_faces(detector, astronaut), detect_faces(detector, large)
    assert np.allclose(np.array(large_face.box) / 6, small_face.box, atol=4)
    assert np.allclose((large_face.landmarks + 0.5) / 6 - 0.5, small_face.landmarks, atol=1.5)


def test_small_faces_and_faces_that_fill_the_frame_are_found(astronaut, detector):
    picture = Image.new("RGB", (1600, 1200), (120, 120, 120))
    picture.paste(Image.fromarray(astronaut).resize((130, 130), Image.Resampling.LANCZOS), (1300, 420))
    (small,) = detect_faces(detector, np.asarray(picture))
    assert small.size < 30 and np.allclose(small.centre, (1356, 450), atol=5)
    head = Image.fromarray(astronaut[40:200, 150:300]).resize((1500, 1600), Image.Resampling.BICUBIC)
    (close,) = detect_faces(detector, np.asarray(head))
    assert close.size > 800


def test_orders_agree_with_the_picture(crowd, detector):
    found = detect_faces(detector, crowd, "left to right", at_least=3)
    assert [round(face.centre[0] / 100) for face in found] == [1, 5, 10] or len(found) == 3
    assert np.argsort([-face.area for face in found]).tolist() == [1, 2, 0]


def test_a_batch_gives_what_each_picture_alone_gives(astronaut, crowd, detector, monkeypatch):
    monkeypatch.setattr(yunet_backend, "PICTURES_AT_ONCE", 3)
    dark = (astronaut * 0.4).astype(np.uint8)
    images = [astronaut, crowd, dark, *[astronaut[:, ::-1].copy()] * 2]
    for number in range(detector.looks):
        together = detector.look(images, number)
        for image, faces in zip(images[:4], together, strict=False):
            (alone,) = detector.look([image], number)
            assert len(faces) == len(alone)
            for one, other in zip(faces, alone, strict=True):
                assert np.allclose(one.landmarks, other.landmarks, atol=0.05)


def test_points_of_an_aligned_crop_are_the_template(astronaut, detector):
    crop = align_face(astronaut, detect_faces(detector, astronaut)[0]).image
    (face,) = detect_faces(detector, (crop * 255).astype(np.uint8))
    assert np.abs(face.landmarks - TEMPLATES["arcface"]).mean() < 12


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 3000, 3), (15, 15, 3), (16, 4000, 3)])
def test_pictures_of_a_few_pixels_hold_no_face(detector, shape):
    assert detect_faces(detector, np.zeros(shape, np.uint8)) == []


@pytest.mark.parametrize("name", ["coffee", "brick", "chelsea", "moon", "rocket", "motorcycle"])
def test_nothing_is_found_where_no_face_is(detector, name):
    from skimage import data, io
    from skimage.data import data_dir

    image = io.imread(f"{data_dir}/motorcycle_left.png") if name == "motorcycle" else getattr(data, name)()
    image = np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image
    for turned in range(4):
        assert detect_faces(detector, np.ascontiguousarray(np.rot90(image, turned))) == []


def test_a_blurred_face_and_a_covered_one_are_found(astronaut, detector):
    head = Image.fromarray(astronaut[:256, 90:346])
    assert len(detect_faces(detector, np.asarray(head.filter(ImageFilter.GaussianBlur(3))))) == 1
    covered = np.array(head)
    covered[132:170, 90:180] = (225, 230, 235)
    assert len(detect_faces(detector, covered)) == 1


@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_missing_or_damaged_weights_say_what_to_do(tmp_path, damage):
    from safetensors.torch import save_file

    path = tmp_path / "weights.safetensors"
    if damage == "cut":
        path.write_bytes((networks._FOLDERS[0] / networks.WEIGHTS).read_bytes()[:5000])
    elif damage == "other":
        save_file({"a": torch.zeros(2)}, path)
    found = "missing" if damage == "missing" else "damaged"
    with pytest.raises(DetectorUnavailableError, match=rf"are {found}: .*weights\.safetensors.*install it again"):
        networks.load_networks(file=path)


def test_the_notices_of_both_networks_lie_beside_the_weights():
    folder = networks._FOLDERS[0]
    assert (folder / networks.WEIGHTS).stat().st_size < 2**20
    for name, holder in (("LICENSE-yunet.txt", "Shiqi Yu"), ("LICENSE-onet.txt", "Kaipeng Zhang")):
        text = (folder / name).read_text(encoding="utf-8")
        assert "MIT License" in text and holder in text and "WITHOUT WARRANTY OF ANY KIND" in text
