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

from train.run.checkpointing import ResumeError, SavedState
from train.run.config import ConfigError, RunConfig
from train.run.loop import NonFiniteLossError, make_optimizer, run, train_step
from train.run.ranks import Ranks
from train.run.sharding import optimizer_state
from train.run.state import State, model_state

ONE = Ranks(0, 1, torch.device("cpu"))


class OneWeight:
    """Moves one weight by its learning rate at each step; `during` is called with (event, step)."""

    def __init__(self, config: RunConfig, during: Callable[[str, int], Any] = lambda event, step: None):
        self.config = config
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


def test_the_learning_rate_falls_over_the_last_steps_but_never_to_nothing(config: RunConfig, read_log: Callable) -> None:
    config = dataclasses.replace(config, warmup=2, cooldown=4)
    assert not run(OneWeight(config, on("step", 3, lambda: os.kill(os.getpid(), signal.SIGTERM))), config, ONE)
    assert run(OneWeight(config), config, ONE)
    rates = [line["lr"] for line in read_log(config.out) if line["kind"] == "train"]
    assert rates == [0.25, 0.5, 0.5, 0.375, 0.25, 0.125]


@pytest.mark.parametrize("name", ["micro_batch", "warmup", "cooldown"])
def test_a_negative_count_of_steps_or_rows_is_refused(name: str, config: RunConfig) -> None:
    with pytest.raises(ConfigError, match=f"{name}.*must not be negative.*found.*-1"):
        dataclasses.replace(config, **{name: -1})


def test_a_finished_run_is_only_exported_again(config: RunConfig) -> None:
    assert run(OneWeight(config), config, ONE)
    events: list[str] = []
    task = OneWeight(config, lambda event, step: events.append(event))
    assert run(task, config, ONE)
    assert task.taken == [] and events == ["save", "export"]  # its state is asked for once, to be read into


def test_a_refused_resumption_leaves_the_configuration_that_its_message_names(config: RunConfig) -> None:
    assert run(OneWeight(config), config, ONE)
    before = (config.out / "config.yaml").read_text()
    assert "seed: 0" in before

    class Refuses(OneWeight):
        def load_state(self, saved: SavedState, step: int) -> None:
            raise ResumeError("another face tower")

    changed = dataclasses.replace(config, seed=7, steps=9)
    with pytest.raises(ResumeError):
        run(Refuses(changed), changed, ONE)
    assert (config.out / "config.yaml").read_text() == before
    assert run(OneWeight(changed), changed, ONE)  # one that goes on writes its own
    assert "seed: 7" in (config.out / "config.yaml").read_text()


class Pulls(OneWeight):
    """Two weights with a gradient of (3, 4)."""

    def __init__(self, config: RunConfig, gradient: tuple[float, float] = (3.0, 4.0)):
        self.gradient = gradient
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.optimizer = torch.optim.SGD([self.weight], lr=config.lr)  # moves by the gradient itself

    def backward(self, batch: Mapping[str, Any], step: int) -> dict[str, float]:
        self.weight.grad = torch.tensor(self.gradient)
        return {"loss": 1.0}


@pytest.mark.parametrize(("largest", "scale"), [(0.0, 1.0), (10.0, 1.0), (5.0, 1.0), (1.0, 0.2)])
def test_a_gradient_longer_than_clip_grad_is_shortened_to_it(largest: float, scale: float, config: RunConfig) -> None:
    config = dataclasses.replace(config, clip_grad=largest, warmup=0)
    task = Pulls(config)
    values = train_step(task, config, ONE, 0)
    torch.testing.assert_close(task.weight.detach(), -config.lr * scale * torch.tensor([3.0, 4.0]))
    assert values["gradient_norm"] == pytest.approx(5.0)  # as it was found


def test_a_gradient_that_is_not_finite_under_a_finite_loss_changes_nothing(config: RunConfig) -> None:
    task = Pulls(config, gradient=(float("inf"), 1.0))
    with pytest.raises(NonFiniteLossError, match="has loss 1 on rank 0 and gradient norm inf; the weights were not changed"):
        train_step(task, config, ONE, 0)
    assert not task.weight.any()


def test_the_optimiser_is_adamw_with_the_configurations_numbers(config: RunConfig) -> None:
    """Matrices are decayed; gains, biases and temperatures are not."""
    config = dataclasses.replace(config, betas=(0.8, 0.95), weight_decay=0.3, lr=0.05)
    torch.manual_seed(0)
    starts = {"matrix": torch.randn(3, 2), "bias": torch.randn(3), "temperature": torch.tensor(2.0)}
    ours, theirs = ({name: torch.nn.Parameter(t.clone()) for name, t in starts.items()} for _ in range(2))
    optimizer = make_optimizer(config, ours, ONE)
    groups = [
        {"params": [theirs["matrix"]], "weight_decay": 0.3},
        {"params": [theirs["bias"], theirs["temperature"]], "weight_decay": 0.0},
    ]
    expected = torch.optim.AdamW(groups, lr=0.05, betas=(0.8, 0.95))
    for _ in range(5):
        for name, parameter in ours.items():
            parameter.grad = torch.randn_like(parameter)
            theirs[name].grad = parameter.grad.clone()
        optimizer.step()
        expected.step()
    for name, parameter in ours.items():
        torch.testing.assert_close(parameter, theirs[name], rtol=1e-5, atol=1e-6)
