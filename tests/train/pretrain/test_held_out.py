"""Measurements on held-out shards while pretraining runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from train.pretrain.command import build, main
from train.pretrain.config import PretrainConfig
from train.pretrain.features import LiveFeatures
from train.pretrain.task import PretrainTask
from train.run.command_line import parse
from train.run.ranks import Ranks

ONE = Ranks(0, 1, torch.device("cpu"))
Arguments = Callable[..., list[str]]


def projections(task: PretrainTask) -> list[Tensor]:
    """e->t of every later call of the model."""
    noted: list[Tensor] = []
    task.model.register_forward_hook(lambda _module, _inputs, outputs: noted.append(outputs[0].detach()))
    return noted


def test_held_out_rows_are_measured_without_dropout_by_the_towers_that_train(pretrain_arguments: Arguments, shards: Path) -> None:
    task = build(parse(PretrainConfig, pretrain_arguments(steps=1, held_out=shards, dropout=0.5)), ONE)
    assert task.held_out and isinstance(task.features, LiveFeatures) and task.held_out.features is task.features
    noted = projections(task)
    task.wrapped.train()
    task.evaluate(1)
    first = torch.cat(noted)
    noted.clear()
    task.wrapped.train()
    task.evaluate(1)
    assert len(first) == 24 + 4 and torch.equal(torch.cat(noted), first)  # samples, then the prompts of four classes


def test_evaluate_every_is_the_number_of_steps_between_measurements(
    pretrain_arguments: Arguments, shards: Path, tmp_path: Path, read_log: Callable
) -> None:
    for out, every, expected in (("a", 2, [2, 4, 5]), ("b", 0, [5])):
        assert main(pretrain_arguments(out, steps=5, held_out=shards, evaluate_every=every)) == 0
        assert [line["step"] for line in read_log(tmp_path / out) if line["kind"] == "evaluate"] == expected


def measured(rank: int, world: int, arguments: list[str]) -> tuple[dict[str, float], int]:
    """What a rank measures, and of how many samples it has run the towers."""
    task = build(parse(PretrainConfig, arguments), Ranks(rank, world, torch.device("cpu")))
    assert isinstance(task.features, LiveFeatures)
    seen: list[int] = []
    task.features.teacher.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    return task.evaluate(1), sum(seen)


def test_ranks_share_the_samples_and_rank_0_has_the_same_result(
    pretrain_arguments: Arguments, shards: Path, run_ranks: Callable
) -> None:
    arguments = pretrain_arguments(steps=1, batch_size=10, held_out=shards)
    alone, _ = measured(0, 1, arguments)
    assert alone.keys() == {"retrieval", "identity", "zero_shot"}
    (first, rows), (second, others) = run_ranks(measured, 2, arguments)
    assert rows == others == 12 and second == {}
    assert first == pytest.approx(alone)
