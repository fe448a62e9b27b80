"""A checkpoint is written while training goes on: of the step it was begun at, whole or absent."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from train.run.checkpointing import Checkpoints, CheckpointWriteError, _deal_among_holders
from train.run.config import RunConfig
from train.run.loop import NonFiniteLossError, run
from train.run.ranks import Ranks

from .test_loop import OneWeight, on

ONE = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig(out=tmp_path / "run", steps=6, batch_size=1, save_every=2, log_every=1, lr=0.5, weight_decay=0.0)


@pytest.fixture
def writing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """`writing(what)` has `what` done by whoever writes a checkpoint, before its data are written."""

    def first(what: Callable[[], Any]) -> None:
        plain = FileSystemWriter.write_data

        def write(self: FileSystemWriter, *arguments: Any) -> Any:
            what()
            return plain(self, *arguments)

        monkeypatch.setattr(FileSystemWriter, "write_data", write)

    return first


def test_steps_go_on_while_a_checkpoint_of_an_earlier_one_is_written(config: RunConfig, writing: Any, read_log: Callable) -> None:
    three_done = threading.Event()
    waited: list[bool] = []
    writing(lambda: waited.append(three_done.wait(60)))
    assert run(OneWeight(config, on("step", 3, three_done.set)), config, ONE)
    assert all(waited) and len(waited) == 3  # had step 3 waited for the checkpoint of step 2, it would wait still
    assert [line["step"] for line in read_log(config.out) if line["kind"] == "checkpoint"] == [2, 4, 6]
    checkpoints = Checkpoints(config.out / "checkpoints", ONE, 3)
    for step in (2, 4, 6):  # the weights of the very step
        other = OneWeight(config)
        other.load_state(checkpoints.saved(step), step)
        assert other.weight.item() == pytest.approx(-0.5 * step, rel=1e-5)
        assert other.optimizer.state[other.weight]["step"] == step


def test_a_run_killed_while_it_writes_goes_on_from_the_checkpoint_before(config: RunConfig, writing: Any, tmp_path: Path) -> None:
    times: list[int] = []

    def second_one_kills() -> None:
        times.append(1)
        if len(times) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        writing(second_one_kills)
        run(OneWeight(config), config, ONE)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    folder = config.out / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000002", "step-00000004.part"]
    again, whole = OneWeight(config), OneWeight(config)
    assert run(again, config, ONE) and again.taken == [3, 4, 5, 6]
    elsewhere = dataclasses.replace(config, out=tmp_path / "whole")
    assert run(whole, elsewhere, ONE) and torch.equal(again.weight, whole.weight)
    assert not list(folder.glob("*.part"))


def test_a_disk_that_fills_while_steps_go_on_ends_the_run_and_keeps_what_was_whole(config: RunConfig, writing: Any) -> None:
    times: list[int] = []

    def second_one_fails() -> None:
        times.append(1)
        if len(times) == 2:
            raise OSError(28, "No space left on device")

    writing(second_one_fails)
    task = OneWeight(config)
    with pytest.raises(CheckpointWriteError, match="The checkpoint of step 4 could not be written.*of step 2 is intact"):
        run(task, config, ONE)
    assert [path.name for path in (config.out / "checkpoints").iterdir()] == ["step-00000002"]


def test_an_error_after_a_checkpoint_was_begun_does_not_cost_it(config: RunConfig) -> None:
    class Diverging(OneWeight):
        def backward(self, batch: Any, step: int) -> dict[str, float]:
            return {**super().backward(batch, step), "loss": float("nan") if step == 4 else 1.0}

    with pytest.raises(NonFiniteLossError):
        run(Diverging(config), config, ONE)
    assert Checkpoints(config.out / "checkpoints", ONE, 3).steps() == [2, 4]


def test_what_several_ranks_hold_is_written_by_one_and_evenly() -> None:
    shared = {f"weight{i}": 10 for i in range(8)}
    held = [{**shared, f"moment{rank}": 5} for rank in range(4)]
    dealt = _deal_among_holders(held)
    assert sorted(name for names in dealt for name in names) == sorted([*shared, *(f"moment{rank}" for rank in range(4))])
    assert all(f"moment{rank}" in dealt[rank] and len(dealt[rank]) == 3 for rank in range(4))
