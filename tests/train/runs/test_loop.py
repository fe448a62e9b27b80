"""The loop around a step: when it saves and stops, and what its log says, on a task of one weight."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from train.checkpointing import SavedState, State, model_state, optimizer_state
from train.config import RunConfig
from train.distributed import Ranks
from train.loop import make_optimizer, run

ONE = Ranks(0, 1, torch.device("cpu"))


class OneWeight:
    """Moves one weight by its learning rate at each step; `during` is called with (event, step)."""

    def __init__(self, config: RunConfig, during: Callable[[str, int], Any] = lambda event, step: None):
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.optimizer = make_optimizer(config, {"weight": self.weight}, ONE)
        self.during = during
        self.taken: list[int] = []

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return [self.weight]

    def batch(self, step: int) -> Mapping[str, Any]:
        return {}

    def suspects(self, batch: Mapping[str, Any]) -> list[str]:
        return []

    def backward(self, batch: Mapping[str, Any], step: int) -> dict[str, float]:
        self.taken.append(step + 1)
        self.during("step", step + 1)
        self.weight.grad = torch.ones(1)
        return {"loss": 1.0}

    def after_step(self, step: int) -> None:
        pass

    def state(self) -> State:
        self.during("save", self.taken[-1] if self.taken else 0)
        return {**model_state("model", {"weight": self.weight}), **optimizer_state(self.optimizer)}

    def load_state(self, saved: SavedState, step: int) -> None:
        saved.read_into(self.state(), whole="model")

    def evaluate(self, step: int) -> dict[str, float]:
        self.during("evaluate", step)
        return {"measured": 1.0} if step % 2 == 0 else {}

    def export(self) -> None:
        self.during("export", self.taken[-1] if self.taken else 0)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig(out=tmp_path / "run", steps=6, batch_size=1, save_every=3, log_every=1, lr=0.5, warmup=4, weight_decay=0.0)


def on(event: str, step: int, action: Callable[[], Any]) -> Callable[[str, int], Any]:
    return lambda found, at: action() if (found, at) == (event, step) else None


@pytest.mark.parametrize(("event", "step"), [("step", 2), ("save", 3), ("evaluate", 3), ("evaluate", 4)])
def test_a_signal_at_any_moment_saves_the_step_it_falls_in_and_takes_no_other(
    event: str, step: int, config: RunConfig, read_log: Callable
) -> None:
    task = OneWeight(config, on(event, step, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert not run(task, config, ONE)
    assert task.taken == list(range(1, step + 1))
    saved = [line["step"] for line in read_log(config.out) if line["kind"] == "checkpoint"]
    assert saved == {2: [2], 3: [3], 4: [3, 4]}[step]
    again = OneWeight(config)
    assert run(again, config, ONE) and again.taken == list(range(step + 1, 7))
    elsewhere = dataclasses.replace(config, out=config.out.with_name("whole"))
    whole = OneWeight(elsewhere)
    assert run(whole, elsewhere, ONE) and torch.equal(again.weight, whole.weight)


def test_a_signal_in_the_last_step_does_not_keep_the_run_from_its_end(config: RunConfig) -> None:
    exported: list[int] = []

    def during(event: str, step: int) -> None:
        if (event, step) == ("evaluate", 6):
            os.kill(os.getpid(), signal.SIGTERM)
        if event == "export":
            exported.append(step)

    assert run(OneWeight(config, during), config, ONE) and exported == [6]


def test_the_log_has_each_step_once_whatever_was_lost_and_cut_short(config: RunConfig, read_log: Callable) -> None:
    def crash() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(OneWeight(config, on("step", 6, crash)), config, ONE)
    assert [line["step"] for line in read_log(config.out) if line["kind"] == "train"] == [1, 2, 3, 4, 5]
    with (config.out / "log.jsonl").open("a") as log:
        log.write('{"kind": "train", "st')  # cut by a kill
    assert run(OneWeight(config), config, ONE)
    lines = read_log(config.out)
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if line["kind"] == "evaluate"] == [2, 4, 6]
    assert [(line["step"], line["ranks"]) for line in lines if line["kind"] == "resume"] == [(3, 1)]


def test_the_learning_rate_rises_from_its_first_share_and_goes_on_where_it_was(config: RunConfig, read_log: Callable) -> None:
    assert not run(OneWeight(config, on("step", 2, lambda: os.kill(os.getpid(), signal.SIGTERM))), config, ONE)
    assert run(OneWeight(config), config, ONE)
    rates = [line["lr"] for line in read_log(config.out) if line["kind"] == "train"]
    assert rates == [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]


def test_a_finished_run_is_only_exported_again(config: RunConfig) -> None:
    assert run(OneWeight(config), config, ONE)
    events: list[str] = []
    task = OneWeight(config, lambda event, step: events.append(event))
    assert run(task, config, ONE)
    assert task.taken == [] and events == ["save", "export"]  # its state is asked for once, to be read into
