"""The mini model that ships with the pack: its files, its people, and a card that says what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from faceclip.face import faces_from_images, load_detector

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "models"
FILES = (
    "faceclip/faceclip_mini_encoder.safetensors",
    "faceclip/faceclip_mini_unet.safetensors",
    "vae/zz_faceclip_mini_vae.safetensors",
)
PEOPLE = sorted((MODELS / "people").glob("*.jpg"))


@pytest.fixture(scope="module")
def card() -> str:
    return (MODELS / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def stages() -> dict[str, dict[str, Any]]:
    """What `train.mini` noted, by stage."""
    return {stage["stage"]: stage for stage in json.loads((MODELS / "figures.json").read_text(encoding="utf-8"))["stages"]}


def test_all_files_together_stay_within_32_mib() -> None:
    found = {path.relative_to(MODELS).as_posix() for path in MODELS.rglob("*.safetensors")}
    assert found == {*FILES, "faces/face_detector_fp16.safetensors"}
    assert sum((MODELS / name).stat().st_size for name in FILES) <= 32 * 2**20


@pytest.mark.parametrize("name", FILES)
def test_a_file_says_that_it_is_trained_and_holds_finite_weights(name: str) -> None:
    with safe_open(MODELS / name, "pt") as file:
        metadata = file.metadata()
        tensors = [file.get_tensor(key) for key in file.keys()]  # noqa: SIM118
    assert metadata["trained"] == "true" and "drawn portraits" in metadata["note"]
    assert all(tensor.isfinite().all() for tensor in tensors)
    assert {tensor.dtype for tensor in tensors} <= {torch.bfloat16, torch.int64}


def test_the_card_says_how_large_the_files_are(card: str) -> None:
    for name in FILES:
        assert f"| `{name}` | {(MODELS / name).stat().st_size / 2**20:.1f} MiB |" in card


def test_the_card_says_what_was_measured(card: str, stages: dict[str, dict[str, Any]]) -> None:
    found = stages["measure"]["found"]
    for row in ("real", "autoencoder", "person", "shuffled"):
        assert f"| {found[row]['face']:.3f} | {found[row]['clip_t']:.3f} |" in card, row
    for name in ("face_of_ceiling", "face_above_shuffled", "clip_t_of_real", "knn"):
        assert f"**{found[name]:.2f}**" in card, name


def test_the_card_says_how_long_each_stage_took(card: str, stages: dict[str, dict[str, Any]]) -> None:
    for name, stage in stages.items():
        assert f"| {name} | {stage['seconds']:,.0f} |" in card, name


@pytest.mark.parametrize("path", PEOPLE, ids=lambda path: path.stem)
def test_the_detector_finds_a_drawn_person_and_has_nothing_to_complain_of(path: Path) -> None:
    image = torch.from_numpy(np.asarray(Image.open(path)).copy())[None] / 255
    found = faces_from_images(image, load_detector("dlib"))
    assert len(found.aligned) == 1 and found.warnings == ()


@pytest.mark.program
def test_the_people_are_those_that_the_script_draws(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "scripts" / "draw_people.py"), str(tmp_path)], check=True)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [path.name for path in PEOPLE] and PEOPLE
    for path in PEOPLE:  # machines that compute differently differ by a level here and there
        one, two = (np.asarray(Image.open(folder / path.name)).astype(int) for folder in (tmp_path, path.parent))
        assert np.abs(one - two).mean() < 0.5
