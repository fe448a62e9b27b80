"""Real detectors for the face tests, and tiny InsightFace packs made on the spot."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from faceclip.face import Face, FaceDetector, load_detector

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def dlib_detector() -> FaceDetector:
    return load_detector("dlib")


@pytest.fixture(scope="session")
def alignment() -> ModuleType:
    """`benchmarks/alignment.py`, whose measure the suite shares."""
    spec = importlib.util.spec_from_file_location("alignment_benchmark", ROOT / "benchmarks" / "alignment.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def crowd(astronaut: np.ndarray) -> np.ndarray:
    """One person three times, uint8 [700, 1200, 3]: small left, large middle, medium right and lower."""
    from PIL import Image

    head = Image.fromarray(astronaut).crop((120, 10, 330, 220))
    picture = Image.new("RGB", (1200, 700), (150, 150, 150))
    for side, place in ((200, (30, 40)), (440, (340, 20)), (300, (860, 370))):
        picture.paste(head.resize((side, side), Image.Resampling.LANCZOS), place)
    return np.asarray(picture)


def as_batch(*images: np.ndarray) -> torch.Tensor:
    """Return images uint8 [H, W, 3] of one size as ComfyUI's IMAGE."""
    return torch.from_numpy(np.stack(images).astype(np.float32) / 255)


@pytest.fixture(name="as_batch")
def as_batch_fixture():
    return as_batch


class ListedFaces:
    """A detector that answers with faces written down beforehand, one list per look; counts the looks."""

    name = "listed"
    tried = "looked at its list"

    def __init__(self, *looks: list[Face]):
        self._looks = looks
        self.looks_taken = 0

    def detect(self, image: np.ndarray) -> list[Face]:
        return next(self.passes(image))

    def passes(self, image: np.ndarray) -> Iterator[list[Face]]:
        for faces in self._looks:
            self.looks_taken += 1
            yield faces


@pytest.fixture
def listed_faces() -> type[ListedFaces]:
    return ListedFaces


@pytest.fixture
def face_at():
    """A function that makes a frontal face whose box has its middle at (x, y)."""

    def make(x: float, y: float, size: float = 100, confidence: float = 0.9) -> Face:
        offsets = np.array([(-0.2, -0.15), (0.2, -0.15), (0, 0.05), (-0.15, 0.25), (0.15, 0.25)]) * size
        box = (x - size / 2, y - size / 2, x + size / 2, y + size / 2)
        return Face(box, (offsets + np.array([x, y])).astype(np.float32), "arcface", confidence)

    return make
