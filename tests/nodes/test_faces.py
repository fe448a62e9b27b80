"""Load Face Detector, Detect Faces, Rank by Face Similarity."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.usefixtures("no_last_resort")


@pytest.fixture(scope="module")
def detector(run: Any) -> Any:
    return run("FaceCLIPFaceDetectorLoader", backend="dlib")[0]


@pytest.fixture(scope="module")
def photo(astronaut: np.ndarray) -> torch.Tensor:
    """The astronaut's head, 200 x 200: a small picture, since looking for a face that is not there takes longest."""
    return torch.from_numpy(astronaut[10:210, 120:320]).float()[None] / 255


def test_a_photo_gives_a_crop_a_preview_a_mask_and_a_report(run: Any, detector: Any, photo: torch.Tensor) -> None:
    kept = photo.clone()
    faces, preview, mask, count, report = run("FaceCLIPDetectFaces", image=photo, detector=detector)
    assert faces.shape == (1, 448, 448, 3) and faces.min() >= 0 and faces.max() <= 1
    assert preview.shape == photo.shape and not torch.equal(preview, photo)
    assert mask.shape == (1, 200, 200) and 0.1 < mask.mean() < 0.4
    assert count == 1 and report.startswith("1 face taken from 1 photo.") and "small" in report
    assert torch.equal(photo, kept)


def test_photos_without_a_face_are_reported_by_index(run: Any, detector: Any, photo: torch.Tensor) -> None:
    batch = torch.cat([photo, torch.zeros_like(photo), photo])
    with pytest.raises(ValueError, match=r"No face was found in image 1 \(200 x 200\)"):
        run("FaceCLIPDetectFaces", image=batch, detector=detector)
    faces, _, _, count, report = run("FaceCLIPDetectFaces", image=batch, detector=detector, on_no_face="skip")
    assert len(faces) == count == 2 and "No such face in image 1." in report
    faces, _, _, count, report = run("FaceCLIPDetectFaces", image=batch, detector=detector, on_no_face="text only")
    assert len(faces) == 3 and count == 2 and faces[1].max() == 0 and "No such face in image 1." in report


def test_an_index_beyond_the_faces_says_how_many_there_are(run: Any, detector: Any, photo: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="Image 0 has 1 face, so there is no face number 3"):
        run("FaceCLIPDetectFaces", image=photo, detector=detector, index=3)


def test_without_a_detector_photos_get_one_and_aligned_crops_stay(run: Any, crops: torch.Tensor, photo: torch.Tensor) -> None:
    assert torch.allclose(run("FaceCLIPDetectFaces", image=crops)[0], crops, atol=1 / 255)
    faces, _, _, count, report = run("FaceCLIPDetectFaces", image=photo)
    chosen = run("FaceCLIPFaceDetectorLoader", backend="yunet")[0]
    assert count == 1 and report.startswith("1 face taken from 1 photo.")
    assert torch.equal(faces, run("FaceCLIPDetectFaces", image=photo, detector=chosen)[0])


def test_a_photo_on_its_side_is_turned_upright_and_said(run: Any, photo: torch.Tensor) -> None:
    upright = run("FaceCLIPDetectFaces", image=photo)[0]
    faces, _, _, _, report = run("FaceCLIPDetectFaces", image=photo.rot90(1, (1, 2)))
    assert "face 0 lies on its side (-90 degrees): turned upright." in report
    assert (faces - upright).abs().mean() < 0.05


def test_comfyuis_own_example_picture_is_known(run: Any, comfyui_path: Any) -> None:
    from PIL import Image

    example = np.asarray(Image.open(comfyui_path / "input" / "example.png").convert("RGB"))
    image = torch.from_numpy(example).float()[None] / 255
    with pytest.raises(ValueError, match="Image 0 is ComfyUI's own example picture, a drawing: choose your photo in Load Image"):
        run("FaceCLIPDetectFaces", image=image)


def test_an_empty_batch_is_refused(run: Any, detector: Any) -> None:
    with pytest.raises(ValueError, match="The batch of images is empty"):
        run("FaceCLIPDetectFaces", image=torch.zeros(0, 64, 64, 3), detector=detector)


def test_a_picture_of_one_pixel_has_no_face(run: Any, detector: Any) -> None:
    with pytest.raises(ValueError, match=r"No face was found in image 0 \(1 x 1\)"):
        run("FaceCLIPDetectFaces", image=torch.zeros(1, 1, 1, 3), detector=detector)


def test_cancel_stops_between_photos(run: Any, detector: Any, photo: torch.Tensor) -> None:
    import comfy.model_management as management

    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        run("FaceCLIPDetectFaces", image=photo, detector=detector)


class _Endless:
    """A detector whose one look never ends by itself, in which somebody presses Cancel."""

    name, tried = "endless", "looked on and on"

    def detect(self, image: Any) -> list[Any]:
        return next(self.passes(image))

    def passes(self, image: Any, pause: Callable[[], None] | None = None) -> Iterator[list[Any]]:
        import comfy.model_management as management

        assert pause
        pause()
        management.interrupt_current_processing(True)
        while True:
            pause()
        yield []


def test_cancel_stops_within_a_look(run: Any, photo: torch.Tensor) -> None:
    import comfy.model_management as management

    with pytest.raises(management.InterruptProcessingException):
        run("FaceCLIPDetectFaces", image=photo, detector=_Endless())


def test_a_missing_insightface_says_what_to_install(run: Any, comfy: Any) -> None:
    expected = "buffalo_l" if importlib.util.find_spec("insightface") else "pip install insightface"
    with pytest.raises(RuntimeError, match=expected):
        run("FaceCLIPFaceDetectorLoader", backend="insightface")


def test_packs_are_looked_for_in_comfyuis_folder(pack_module: Any, comfy: Any) -> None:
    import sys
    from pathlib import Path

    import folder_paths

    folders = sys.modules[f"{pack_module.__name__}.nodes.folders"].insightface_folders()
    assert Path(folder_paths.models_dir) / "insightface" in folders


def test_pictures_are_ranked_by_likeness_and_those_without_a_face_come_last(run: Any, photo: torch.Tensor) -> None:
    noise = torch.rand(photo.shape, generator=torch.Generator().manual_seed(0)) * 0.1
    images = torch.cat([torch.zeros_like(photo), (photo * 0.7 + noise).clamp(0, 1), photo])
    ranked, scores, best = run("FaceCLIPFaceSimilarity", images=images, reference=photo)
    assert torch.equal(ranked, images[[2, 1, 0]]) and torch.equal(best, photo)
    assert "1. image 2: 1.000" in scores and "3. image 0: no face found" in scores


def test_the_node_shows_scores_on_the_ranked_pictures_and_gives_them_on_without(pack: dict, photo: torch.Tensor) -> None:
    result = pack["FaceCLIPFaceSimilarity"].execute(images=photo.repeat(2, 1, 1, 1), reference=photo, judge="dlib")
    assert len(result.ui.as_dict()["images"]) == 2
    assert torch.equal(result.result[0][0], photo[0])


def test_a_reference_without_a_face_is_refused(run: Any, photo: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="No face was found in reference image 0"):
        run("FaceCLIPFaceSimilarity", images=photo, reference=torch.zeros_like(photo))
