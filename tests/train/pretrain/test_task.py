"""What each setting of pretraining does to a step: rows at a time,
dropout, recomputation, who is whose negative."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from train.pretrain import task as pretrain_step
from train.pretrain.command import build
from train.pretrain.config import PretrainConfig
from train.pretrain.features import LiveFeatures, person_labels
from train.pretrain.task import PretrainTask
from train.run.command_line import parse
from train.run.loop import train_step
from train.run.ranks import Ranks

ONE = Ranks(0, 1, torch.device("cpu"))
Arguments = Callable[..., list[str]]


@pytest.fixture
def make_task(pretrain_arguments: Arguments) -> Callable[..., PretrainTask]:
    """`make_task(micro_batch=2, ...)` -> the task of a small run of one rank."""

    def make(**options: Any) -> PretrainTask:
        return build(parse(PretrainConfig, pretrain_arguments(steps=1, **options)), ONE)

    return make


def rows_seen(module: nn.Module) -> list[int]:
    """The rows of every later call of a module, noted as they come."""
    seen: list[int] = []
    module.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    return seen


def test_micro_batch_bounds_the_rows_in_every_tower(
    make_task: Callable[..., PretrainTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(micro_batch=2, batch_size=6, guided_fraction=0.25)
    captions: list[int] = []
    embed = pretrain_step.text_embedding
    monkeypatch.setattr(pretrain_step, "text_embedding", lambda branch, some: captions.append(len(some)) or embed(branch, some))
    assert isinstance(task.features, LiveFeatures)
    teacher, model = rows_seen(task.features.teacher), rows_seen(task.model)
    face = rows_seen(task.model.branch.face_encoder)
    task.backward(task.batch(0), 0)
    assert teacher == [2, 2, 2] and captions == [2, 2, 2] and model == [2] * 6  # the model's two passes
    assert face and max(face) <= 2


def test_guided_fraction_is_the_share_of_rows_without_a_face(make_task: Callable[..., PretrainTask]) -> None:
    for share in (0.25, 0.5):
        batch = make_task(batch_size=8, guided_fraction=share).batch(0)
        assert int((~batch["has_face"]).sum()) == 8 * share
        assert [key.startswith("guided") for key in batch["key"]] == (~batch["has_face"]).tolist()


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_dropout_is_drawn_anew_at_every_step_and_the_same_for_the_same_step(
    dropout: float, make_task: Callable[..., PretrainTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(dropout=dropout, lr=1e-30)  # weights stay as they are
    batch = task.batch(0)
    monkeypatch.setattr(task, "batch", lambda step: batch)
    losses = [train_step(task, task.config, ONE, step)["loss"] for step in (0, 1, 0)]
    assert losses[0] == losses[2]
    assert (losses[0] == losses[1]) == (dropout == 0.0)


@pytest.mark.parametrize("recomputed", [False, True])
def test_activation_checkpointing_computes_blocks_again_in_backward(
    recomputed: bool, make_task: Callable[..., PretrainTask]
) -> None:
    task = make_task(activation_checkpointing=recomputed)
    batch = task.batch(0)
    text, fusion = rows_seen(task.model.branch.transformer.resblocks[0].mlp), rows_seen(first_leaf(task))
    task.backward(batch, 0)
    frozen = 1  # the text target's, kept for no backward pass
    assert len(text) == frozen + (2 if recomputed else 1)
    assert len(fusion) == (2 if recomputed else 1)


def first_leaf(task: PretrainTask) -> nn.Module:
    """A layer inside the first block of the fusion module."""
    return next(module for module in task.model.branch.fuser.encoder.layers[0].modules() if not list(module.children()))


def test_a_sample_that_a_batch_holds_twice_is_no_negative_of_itself(
    make_task: Callable[..., PretrainTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(guided="", guided_fraction=0.0, dropout=0.0)
    once = task.batch(0)
    twice: dict[str, Any] = {
        name: [*values, *values] if isinstance(values, list) else torch.cat([values] * 2) for name, values in once.items()
    }
    losses = {}
    for known in (True, False):
        identity = twice["index"] if known else torch.full_like(twice["index"], -1)
        losses[known] = task.backward({**twice, "identity": identity}, 0)
        task.optimizer.zero_grad()
    # Row numbers are what tells people apart here, whether they are given or not.
    assert losses[False]["identity"] == pytest.approx(losses[True]["identity"], rel=1e-6)
    assert losses[False]["image"] == pytest.approx(losses[True]["image"], rel=1e-6)


def test_rows_of_unknown_people_get_labels_that_no_person_has() -> None:
    identity, index = torch.tensor([0, -1, 7, -1, -1, -1]), torch.tensor([3, 0, 4, 7, 0, 9])
    labels = person_labels(identity, torch.tensor([True] * 5 + [False]), index).tolist()
    assert labels[0] == 0 and labels[2] == 7 and labels[5] == -1
    assert labels[1] == labels[4] != labels[3]
    assert min(labels[1], labels[3]) >= 1 << 62
