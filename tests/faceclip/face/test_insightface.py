"""InsightFace on real, tiny ONNX models: a detector of red squares and a colour-averaging embedding."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from faceclip.face import (
    DetectorUnavailableError,
    FaceChoice,
    FaceError,
    align_face,
    detect_faces,
    faces_from_images,
    load_detector,
    load_judge,
)
from faceclip.face import insightface_backend as backend
from faceclip.face.align import TEMPLATES
from faceclip.face.similarity import cosine_similarity

STRIDES = (8, 16, 32)
RED = (255, 0, 0)
# A box reaching one cell up and left, two down and right of the cell's corner; landmarks laid out like ArcFace's.
BOX = (1.0, 1.0, 2.0, 2.0)
LANDMARKS = (TEMPLATES["arcface"] - 224) / 448 * 3 + 0.5


@pytest.fixture(scope="module")
def packs(tmp_path_factory) -> Path:
    """A folder as `models/insightface`: buffalo_l complete, antelopev2 unpacked to a folder within its folder."""
    root = tmp_path_factory.mktemp("insightface")
    for folder in (root / "buffalo_l", root / "models" / "antelopev2" / "antelopev2"):
        folder.mkdir(parents=True)
        _save_other(folder / "1k3d68.onnx", side=192, outputs=1)
        _save_other(folder / "genderage.onnx", side=96, outputs=1)
        _save_detector(folder / "zz_detector.onnx")
        _save_embedding(folder / "glint.onnx")
    return root


@pytest.fixture
def detector(packs):
    return load_detector("insightface", provider="cpu", roots=[packs])


@pytest.fixture(autouse=True)
def empty_home(monkeypatch, tmp_path_factory):
    monkeypatch.setattr(Path, "home", lambda: tmp_path_factory.getbasetemp() / "nobody")


def _save(path: Path, nodes, inputs, outputs, weights) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, inputs)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _save_detector(path: Path) -> None:
    """SCRFD's outputs: scores, boxes and landmarks at three strides, two anchors a cell; only stride 32 answers."""
    from onnx import helper

    nodes, weights, outputs = [], {}, []
    heads = {"score": 1, "box": 4, "points": 10}
    for head, width in heads.items():
        for stride in STRIDES:
            name = f"{head}_{stride}"
            kernel = np.zeros((2 * width, 3, stride, stride), np.float32)
            bias = np.zeros(2 * width, np.float32)
            if head == "score":
                bias[:] = -20
                if stride == 32:
                    # 0.98 for a cell that is red all over, next to nothing for a quarter of one.
                    kernel[0, 0], kernel[0, 1], kernel[0, 2] = (sign * 8 / stride**2 for sign in (1, -1, -1))
            elif head == "box":
                bias[:] = BOX * 2
            else:
                bias[:] = np.tile(LANDMARKS.ravel(), 2)
            weights |= {f"{name}.weight": kernel, f"{name}.bias": bias, f"{name}.shape": np.array([-1, width])}
            nodes += [
                helper.make_node(
                    "Conv",
                    ["input.1", f"{name}.weight", f"{name}.bias"],
                    [f"{name}.map"],
                    kernel_shape=[stride, stride],
                    strides=[stride, stride],
                ),
                helper.make_node("Transpose", [f"{name}.map"], [f"{name}.cells"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"{name}.cells", f"{name}.shape"], [f"{name}.rows"]),
                helper.make_node("Sigmoid" if head == "score" else "Identity", [f"{name}.rows"], [name]),
            ]
            outputs.append((name, ["cells", width]))
    _save(path, nodes, [1, 3, "height", "width"], outputs, weights)


def _save_embedding(path: Path) -> None:
    """ArcFace's signature: 112 x 112 in, 512 numbers out, here a fixed
    mixture of the crop's mean colours in 16 squares."""
    from onnx import helper

    mixture = np.random.default_rng(0).normal(size=(48, 512)).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["input.1"], ["squares"], kernel_shape=[28, 28], strides=[28, 28]),
        helper.make_node("Flatten", ["squares"], ["flat"]),
        helper.make_node("MatMul", ["flat", "mixture"], ["embedding"]),
    ]
    _save(path, nodes, ["batch", 3, 112, 112], [("embedding", ["batch", 512])], {"mixture": mixture})


def _save_other(path: Path, side: int, outputs: int) -> None:
    from onnx import helper

    nodes = [helper.make_node("GlobalAveragePool", ["input.1"], ["fc1"])]
    _save(path, nodes, ["batch", 3, side, side], [("fc1", ["batch", 3, 1, 1])] * outputs, {})


def _picture(width: int, height: int, *squares: tuple[int, int, int]) -> np.ndarray:
    """Grey with red squares of (x, y, side), the detector's idea of a face."""
    image = np.full((height, width, 3), 128, np.uint8)
    for x, y, side in squares:
        image[y : y + side, x : x + side] = RED
    return image


def test_boxes_and_landmarks_come_back_in_the_photos_pixels(detector):
    (face,) = detect_faces(detector, _picture(640, 480, (320, 160, 32)))
    assert face.landmark_kind == "arcface"
    assert np.allclose(face.box, (288, 128, 384, 224), atol=1)
    assert np.allclose(face.landmarks, LANDMARKS * 32 + (320, 160), atol=1)
    assert 0.95 < face.confidence < 1


def test_a_photo_larger_than_the_look_is_mapped_back(detector):
    """At 2,560 px the square is 4 x 32 px: the usual look sees one cell, and the answer is 4 times larger."""
    (face,) = detector.detect(_picture(2560, 1280, (1280, 640, 128)))
    assert np.allclose(face.box, (1152, 512, 1536, 896), atol=6)
    assert np.allclose(face.landmarks, LANDMARKS * 128 + (1280, 640), atol=6)


def test_a_small_face_is_found_by_a_look_at_another_size(detector):
    picture = _picture(1280, 1280, (640, 320, 32))
    assert detector.detect(picture) == []
    (face,) = detect_faces(detector, picture)
    assert np.allclose(face.box, (608, 288, 704, 384), atol=1)


def test_colours_arrive_in_the_right_order(detector):
    red = _picture(640, 640, (320, 160, 32))
    assert len(detector.detect(red)) == 1
    assert detector.detect(np.ascontiguousarray(red[:, :, ::-1])) == [], "blue is no face to this detector"


def test_the_whole_node_job_works_on_insightface(detector, as_batch):
    images = as_batch(_picture(640, 640, (96, 160, 32), (384, 320, 32)), _picture(640, 640))
    found = faces_from_images(images, detector, FaceChoice("left to right", count=2), on_no_face="text only")
    assert found.sources == (0, 0, 1)
    assert found.without_face == (1,)
    crop = found.aligned[0].numpy()
    # The square reaches from the box's first to its second third.
    assert np.allclose(crop[224, 224], (1, 0, 0), atol=0.05)
    assert np.allclose(crop[40, 40], 0.5, atol=0.05)


def test_min_confidence_decides_what_counts(detector):
    dim = _picture(640, 640)
    dim[160:192, 320:352] = (235, 20, 20)
    (face,) = detect_faces(detector, dim, min_confidence=0.2)
    assert 0.2 < face.confidence < 0.9
    assert detect_faces(detector, dim, min_confidence=0.95) == []


def test_a_folder_within_a_folder_of_the_same_name_is_read(packs):
    found = backend.find_pack("antelopev2", [packs])
    assert found == packs / "models" / "antelopev2" / "antelopev2"
    assert load_detector("insightface", "antelopev2", "cpu", [packs]).name == "InsightFace antelopev2 (cpu)"


def test_packs_in_the_home_folder_are_found(monkeypatch, tmp_path):
    (tmp_path / ".insightface" / "models" / "buffalo_l").mkdir(parents=True)
    (tmp_path / ".insightface" / "models" / "buffalo_l" / "det.onnx").touch()
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert backend.find_pack("buffalo_l") == tmp_path / ".insightface" / "models" / "buffalo_l"


@pytest.mark.parametrize("pack", ["../outside", "../models/../outside", "/outside", "a\\b", "", ".."])
def test_a_pack_does_not_lead_out_of_its_folders(tmp_path, pack):
    for folder in (tmp_path / "outside", tmp_path / "roots" / "models"):
        folder.mkdir(parents=True)
    (tmp_path / "outside" / "x.onnx").touch()
    with pytest.raises(FaceError, match="is not the name of a pack"):
        backend.find_pack(pack.replace("/outside", f"{tmp_path}/outside") if pack == "/outside" else pack, [tmp_path / "roots"])


def test_auto_prefers_insightface_once_its_pack_is_there(packs, caplog):
    with caplog.at_level("INFO", logger="faceclip.face"):
        detector = load_detector("auto", provider="cpu", roots=[packs])
    assert detector.name == "InsightFace buffalo_l (cpu)"
    assert "InsightFace buffalo_l (cpu)" in caplog.text


def test_a_missing_pack_names_folder_and_url(tmp_path):
    with pytest.raises(DetectorUnavailableError) as error:
        load_detector("insightface", "antelopev2", roots=[tmp_path / "insightface"])
    message = str(error.value)
    assert "'antelopev2' was not found" in message
    assert "https://github.com/deepinsight/insightface/releases/download/v0.7/antelopev2.zip" in message
    assert str(tmp_path / "insightface" / "models" / "antelopev2") in message
    assert str(Path("nobody") / ".insightface") in message
    assert "non-commercial" in message


@pytest.mark.parametrize("pack", ["buffalo_l", "antelopev2"])
def test_the_urls_are_those_of_the_table_of_files(pack):
    from faceclip.hub import FILES

    assert backend.PACK_URL.format(pack=pack) in {file.url for file in FILES}


@pytest.mark.parametrize("absent", ["insightface", "onnxruntime"])
def test_a_missing_package_names_the_command(monkeypatch, packs, absent):
    monkeypatch.setattr(backend, "find_spec", lambda name: None if name == absent else importlib.util.find_spec(name))
    with pytest.raises(DetectorUnavailableError, match="pip install insightface onnxruntime"):
        load_detector("insightface", roots=[packs])


_BROKEN = {
    "onnxruntime": "raise ImportError('DLL load failed while importing onnxruntime_pybind11_state')",
    "onnx": "raise TypeError('Descriptors cannot be created directly: protobuf')",
    "insightface": "raise ValueError('numpy.dtype size changed, may indicate binary incompatibility')",
}


@pytest.mark.parametrize("package", [*_BROKEN, "an empty folder"])
def test_a_package_that_does_not_start_is_told_and_auto_goes_on(monkeypatch, packs, tmp_path, package):
    """Packages as users have them: a DLL that does not load, another
    protobuf, another numpy, what a failed install left."""
    name = "insightface" if package == "an empty folder" else package
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(_BROKEN.get(package, ""))
    monkeypatch.syspath_prepend(tmp_path)
    for module in [m for m in sys.modules if m.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    try:
        with pytest.raises(DetectorUnavailableError) as error:
            load_detector("insightface", provider="cpu", roots=[packs])
        assert load_detector("auto", provider="cpu", roots=[packs]).name == "yunet"
    finally:
        for module in [m for m in sys.modules if m.split(".")[0] == name]:
            del sys.modules[module]  # the broken one; monkeypatch brings back what was there
    message = str(error.value)
    assert f"{name} does not start" in message and "pip install insightface onnxruntime" in message and "yunet" in message
    assert ("Visual C++" in message) == ("DLL" in _BROKEN.get(package, ""))


def test_cuda_that_does_not_load_is_no_bad_download(monkeypatch, packs, caplog):
    from insightface import model_zoo

    whole = model_zoo.get_model

    def without_cuda(path, providers):
        if providers != ["CPUExecutionProvider"]:
            raise RuntimeError("libcublasLt.so.12: cannot open shared object file")
        return whole(path, providers=providers)

    monkeypatch.setattr(model_zoo, "get_model", without_cuda)
    monkeypatch.setattr(backend, "choose_providers", lambda provider: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    assert load_detector("insightface", roots=[packs]).name == "InsightFace buffalo_l (cpu)"
    assert "libcublasLt" in caplog.text
    with pytest.raises(DetectorUnavailableError, match=r"cannot start cuda here.*the pack is sound"):
        load_detector("insightface", provider="cuda", roots=[packs])


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", "half"])
def test_a_damaged_model_file_is_named(packs, tmp_path, content):
    (tmp_path / "buffalo_l").mkdir()
    whole = (packs / "buffalo_l" / "zz_detector.onnx").read_bytes()
    (tmp_path / "buffalo_l" / "det_10g.onnx").write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(DetectorUnavailableError, match=r"det_10g\.onnx .*Download the pack again"):
        load_detector("insightface", roots=[tmp_path])


def test_an_incomplete_pack_says_what_it_lacks(tmp_path):
    (tmp_path / "buffalo_l").mkdir()
    _save_other(tmp_path / "buffalo_l" / "genderage.onnx", side=96, outputs=1)
    with pytest.raises(DetectorUnavailableError, match="no model for face detection"):
        load_detector("insightface", roots=[tmp_path])
    with pytest.raises(DetectorUnavailableError, match="no model for face recognition"):
        load_judge("insightface", roots=[tmp_path])


def test_the_provider_is_chosen_by_what_onnxruntime_offers(monkeypatch):
    import onnxruntime

    cuda, coreml, cpu = "CUDAExecutionProvider", "CoreMLExecutionProvider", "CPUExecutionProvider"

    def offer(*names):
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["AzureExecutionProvider", *names])

    offer(cpu)
    assert backend.choose_providers("auto") == [cpu]
    with pytest.raises(DetectorUnavailableError, match=r"cannot use cuda here.*pip install onnxruntime-gpu"):
        backend.choose_providers("cuda")
    with pytest.raises(DetectorUnavailableError, match=r"cannot use coreml here.*Mac only"):
        backend.choose_providers("coreml")
    offer(cpu, cuda)
    assert backend.choose_providers("auto") == [cuda, cpu]
    assert backend.choose_providers("cuda") == [cuda, cpu]
    assert backend.choose_providers("cpu") == [cpu]
    offer(cpu, coreml)
    assert backend.choose_providers("auto") == [coreml, cpu]


def test_a_provider_that_onnxruntime_could_not_start_is_reported(monkeypatch, packs, caplog):
    monkeypatch.setattr(backend, "choose_providers", lambda provider: ["CPUExecutionProvider"])
    with caplog.at_level("WARNING", logger="faceclip.face"):
        assert load_detector("insightface", provider="cuda", roots=[packs]).name == "InsightFace buffalo_l (cpu)"
    assert "could not start cuda" in caplog.text


def test_the_judge_embeds_any_detectors_face(packs, astronaut, dlib_detector):
    judge = load_judge("insightface", provider="cpu", roots=[packs])
    (face,) = detect_faces(dlib_detector, astronaut)
    vector = judge.embed(astronaut, face)
    assert vector.shape == (512,)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    larger = np.kron(astronaut, np.ones((2, 2, 1), np.uint8))
    again = judge.embed(larger, detect_faces(dlib_detector, larger)[0])
    assert cosine_similarity(vector, again) > 0.98


def test_the_judges_network_reads_the_aligned_crop_as_rgb(packs, astronaut, dlib_detector):
    import onnxruntime

    (face,) = detect_faces(dlib_detector, astronaut)
    session = onnxruntime.InferenceSession(packs / "buffalo_l" / "glint.onnx", providers=["CPUExecutionProvider"])
    pixels = align_face(astronaut, face, size=112).image.transpose(2, 0, 1)[None] * 2 - 1
    (direct,) = session.run(None, {"input.1": pixels})
    vector = load_judge("insightface", provider="cpu", roots=[packs]).embed(astronaut, face)
    assert cosine_similarity(vector, direct[0]) > 0.9999
