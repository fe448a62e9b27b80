"""Teachers and judges learn where their pictures are: nothing of a loss may stay on the CPU.

A device without numbers, torch's `meta`, stands in for the GPU: there, too,
two devices in one operation are an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from train.proof.fitting import Schedule
from train.proof.teachers import autoencoder, clip, recognition
from train.proof.teachers.pictures import Pictures
from train.synthetic.people import TRAITS

GPU = torch.device("meta")
COUNT = 16
SCHEDULE = Schedule(steps=6, batch=4)


class LearntError(Exception):
    """Raised in place of training on."""


@pytest.fixture
def pictures() -> Pictures:
    return Pictures(
        images=torch.zeros(COUNT, 3, 128, 128, dtype=torch.uint8),
        crops=torch.zeros(COUNT, 3, 112, 112, dtype=torch.uint8),
        landmarks=torch.rand(COUNT, 5, 2),
        identity=torch.arange(COUNT) - 2,
        captions=["a man with a red hat"] * COUNT,
        classes=["dog", "cat"] + [""] * (COUNT - 2),
        traits=torch.rand(COUNT, len(TRAITS)),
    )


@pytest.fixture(autouse=True)
def one_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """`fit` computes the first losses and their gradients, and raises; what has to be read off a tensor is 0."""

    def fit(what: str, learner: torch.nn.Module, loss_of: Callable[[Tensor], Tensor], rows: Iterator[Tensor], *_: Any) -> None:
        assert {parameter.device for parameter in learner.parameters()} == {GPU}
        for batch in rows:
            loss = loss_of(batch)
            assert loss.device == GPU
            loss.backward()
        raise LearntError(what)

    for module in (autoencoder, clip, recognition):
        monkeypatch.setattr(module, "fit", fit)
    monkeypatch.setattr(Tensor, "tolist", lambda self: torch.zeros(self.shape, dtype=torch.int64).numpy().tolist())
    monkeypatch.setattr(autoencoder.autocast_mode, "autocast", lambda *_, **__: nullcontext())


def test_the_clip_learns_where_its_pictures_are(pictures: Pictures, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there = replace(pictures.to(GPU), identity=pictures.identity)  # whose numbers choose the rows
    with pytest.raises(LearntError):
        clip.train_clip(there, "l", SCHEDULE, tmp_path / "clip")


@pytest.mark.parametrize("train", [lambda *given: recognition.train_face_tower(*given, traits=1.0), recognition.train_judge])
def test_face_tower_and_judge_learn_where_their_pictures_are(
    train: Callable[..., Any], pictures: Pictures, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    people = pictures.people()
    count = int(people.identity.max())
    monkeypatch.setattr(Pictures, "people", lambda self: self)
    monkeypatch.setattr(Tensor, "__int__", lambda self: count)
    with pytest.raises(LearntError):
        train(people.to(GPU), SCHEDULE, tmp_path / "tower")


def test_the_autoencoder_learns_where_its_pictures_are(pictures: Pictures, tmp_path: Path) -> None:
    with pytest.raises(LearntError, match="autoencoder"):
        autoencoder.train_autoencoder(pictures.to(GPU), SCHEDULE, SCHEDULE, tmp_path / "vae", autoencoder.WIDTHS)


def test_a_decoder_learns_where_its_pictures_are(pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "nonzero", lambda chosen: torch.arange(len(chosen))[:, None])
    with pytest.raises(LearntError, match="decoder"):
        autoencoder.sharpen_decoder(autoencoder.new_autoencoder(autoencoder.WIDTHS).to(GPU), pictures.to(GPU), SCHEDULE)
