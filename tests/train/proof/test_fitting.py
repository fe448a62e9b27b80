"""Teachers' training goes on where it was stopped, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Linear

from train.proof import fitting
from train.proof.fitting import Schedule, fit, forget, state_of
from train.proof.teachers.pictures import shuffled

SCHEDULE = Schedule(steps=9, batch=4, lr=1e-2, seed=3)


def train(
    keep: Path | None, stop_after: int | None = None, schedule: Schedule = SCHEDULE
) -> tuple[list[float], dict[str, Tensor]]:
    """A small network whose loss draws from torch's and Python's generators; killed after some steps."""
    torch.manual_seed(0)
    learner = nn.Sequential(Linear(5, 8), nn.BatchNorm1d(8), Linear(8, 1))
    data, source = torch.randn(20, 5), random.Random(1)

    def loss_of(rows: Tensor) -> Tensor:
        x = data[rows] + 0.1 * torch.randn(len(rows), 5)
        return (learner(x) - source.random()).square().mean()

    def rows() -> Iterator[Tensor]:
        for step, batch in enumerate(shuffled(20, schedule.batch, schedule.steps, schedule.seed)):
            if step == stop_after:
                raise KeyboardInterrupt
            yield batch

    losses = fit("small", learner, loss_of, rows(), schedule, keep, [source])
    return losses, learner.state_dict()


def test_a_training_that_was_killed_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "KEEP_SECONDS", -1.0)
    whole, weights = train(None)
    keep = state_of(tmp_path / "tower.safetensors", "tower")
    for steps in (2, 7):
        with pytest.raises(KeyboardInterrupt):
            train(keep, steps)
    losses, resumed = train(keep)
    assert losses == whole and len(losses) == SCHEDULE.steps
    assert all(torch.equal(resumed[name], tensor) for name, tensor in weights.items())


def test_a_finished_training_is_read_and_not_done_again(tmp_path: Path) -> None:
    keep = tmp_path / "kept"
    losses, weights = train(keep)
    again, same = train(keep, stop_after=0)
    assert again == losses and all(torch.equal(same[name], tensor) for name, tensor in weights.items())


def test_the_state_of_another_schedule_is_not_used(tmp_path: Path) -> None:
    keep, longer = tmp_path / "kept", Schedule(steps=11, batch=4, lr=1e-2, seed=3)
    train(keep)
    assert train(keep, schedule=longer)[0] == train(None, schedule=longer)[0]


def test_a_products_states_are_forgotten_and_no_others(tmp_path: Path) -> None:
    product = tmp_path / "clip.safetensors"
    for path in (state_of(product, "l"), state_of(product, "other"), state_of(tmp_path / "judge.safetensors", "judge"), product):
        path.write_bytes(b"")
    forget(product)
    assert {path.name for path in tmp_path.iterdir()} == {"clip.safetensors", "judge.safetensors.judge.partial"}
