"""The golden models: stand-in weights that any machine can make again,
and the reference implementation's outputs for them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from faceclip import FaceCLIPConfig, FaceCLIPEncoder

from ...golden import stand_in_weights

GOLDEN = Path(__file__).resolve().parents[2] / "fixtures" / "golden"


@dataclass(frozen=True)
class Golden:
    """One golden model: shapes of its tensors, what goes in, what the reference implementation gave."""

    shapes: dict[str, list[int]]
    prompts: list[str]
    faces: Tensor  # [4, 3, 448, 448]; black where the row has no face
    outputs: dict[str, Tensor]
    preset: str

    def encoder(self) -> FaceCLIPEncoder:
        """The golden encoder in fp32. Its two face towers differ, so they are not shared."""
        encoder = FaceCLIPEncoder(FaceCLIPConfig.preset(self.preset), share_face_tower=False).eval()
        encoder.load_state_dict(stand_in_weights(self.shapes))
        return encoder


def _golden(name: str, preset: str) -> Golden:
    inputs = json.loads((GOLDEN / "inputs.json").read_text())
    noise = torch.rand(len(inputs["texts"]), 3, 14, 14, generator=torch.Generator().manual_seed(inputs["face_seed"]))
    faces = F.interpolate(noise, size=(448, 448), mode="bilinear")
    return Golden(
        shapes=json.loads((GOLDEN / f"manifest_{name}.json").read_text()),
        prompts=inputs["texts"],
        faces=faces * torch.tensor(inputs["face_exists"])[:, None, None, None],
        outputs=load_file(GOLDEN / f"{name}.safetensors"),
        preset=preset,
    )


@pytest.fixture(scope="session")
def tiny_golden() -> Golden:
    return _golden("tiny", "tiny")


@pytest.fixture(scope="session")
def full_golden() -> Golden:
    return _golden("full", "sdxl")


@pytest.fixture
def tiny_encoder(tiny_golden: Golden) -> FaceCLIPEncoder:
    return tiny_golden.encoder()
