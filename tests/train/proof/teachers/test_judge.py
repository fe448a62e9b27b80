"""The judge: where it looks, and that it is the same from its file."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from faceclip.checkpoint import write_safetensors
from faceclip.face.align import ARCFACE_112
from train.proof.teachers.judge import MARGIN, SIZE, Judge, aligned, load_trained_judge

TEMPLATE = (torch.tensor(ARCFACE_112) / 112 - 0.5) / MARGIN + 0.5
"""Where the landmarks lie on the judge's crop, in sides of it."""


def brightest(channel: torch.Tensor) -> torch.Tensor:
    """(x, y) of a channel's [H, W] centre of mass, in sides."""
    height, width = channel.shape
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    return torch.stack([(channel * x).sum(), (channel * y).sum()]) / channel.sum()


@pytest.mark.parametrize(("size", "turn", "scale"), [(64, 0.0, 0.5), (128, 0.4, 0.4), (96, -0.7, 0.3)])
def test_landmarks_of_any_picture_come_to_lie_on_the_template(size: int, turn: float, scale: float) -> None:
    cos, sin = math.cos(turn), math.sin(turn)
    rotation = torch.tensor([[cos, -sin], [sin, cos]])
    landmarks = (torch.tensor(ARCFACE_112) / 112 - 0.5) @ rotation.T * scale + torch.tensor([0.45, 0.55])
    y, x = torch.meshgrid((torch.arange(size) + 0.5) / size, (torch.arange(size) + 0.5) / size, indexing="ij")
    for number, point in enumerate(landmarks):
        spot = (-((x - point[0]) ** 2 + (y - point[1]) ** 2) / (2 * 0.02**2)).exp()
        crop = aligned(spot.expand(1, 3, -1, -1), landmarks[None])
        assert crop.shape == (1, 3, SIZE, SIZE)
        torch.testing.assert_close(brightest(crop[0, 0]), TEMPLATE[number], atol=0.01, rtol=0)


def test_a_vector_does_not_depend_on_the_batch_or_on_the_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    judge = Judge()
    write_safetensors(tmp_path / "judge.safetensors", dict(judge.state_dict()), {})
    images = torch.randint(0, 256, (3, 3, 96, 96), dtype=torch.uint8)
    vectors = judge.embed(images)
    assert vectors.shape == (3, 128)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(load_trained_judge(tmp_path / "judge.safetensors").embed(images, batch=1), vectors)
