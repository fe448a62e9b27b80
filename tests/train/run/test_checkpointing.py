"""A run may be killed, told to stop, moved to other ranks, or run out of
disk: it goes on exactly, or says why not."""

from __future__ import annotations

import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from train.pretrain.command import build, main
from train.pretrain.config import PretrainConfig
from train.run.checkpointing import Checkpoints, CheckpointWriteError
from train.run.command_line import parse
from train.run.ranks import Ranks

ONE = Ranks(0, 1, torch.device("cpu"))
Arguments = Callable[..., list[str]]
Launch = Callable[..., Any]
STEPS = 6


def weights(run: Path) -> dict[str, torch.Tensor]:
    return {**load_file(run / "encoder.safetensors"), **load_file(run / "heads.safetensors")}


def require_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], note: object) -> None:
    assert found.keys() == expected.keys()
    differing = [name for name in expected if not torch.equal(found[name], expected[name])]
    assert not differing, f"{len(differing)} tensors differ ({note}), among them {differing[0]}"


def wait_for_step(run: Path, step: int, command: Any, read_log: Callable, kind: str = "train") -> None:
    while not any(line["kind"] == kind and line["step"] >= step for line in read_log(run)):
        assert None in command.codes(), f"the run ended before step {step}:\n{command.said()}"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def uninterrupted(shards: Path, guided_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    out = tmp_path_factory.mktemp("uninterrupted")
    options = {"config": "mini", "data": shards, "guided": guided_shards, "out": out, "steps": STEPS, "batch_size": 4}
    assert main([word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]) == 0
    return weights(out)


def test_a_run_killed_at_a_random_step_ends_with_the_same_bits(
    pretrain_arguments: Arguments, launch: Launch, tmp_path: Path, read_log: Callable, uninterrupted: dict[str, torch.Tensor]
) -> None:
    arguments, run = pretrain_arguments(steps=STEPS), tmp_path / "run"
    step, pause = random.randint(2, STEPS - 2), random.uniform(0, 0.5)
    command = launch("train.pretrain", arguments)
    wait_for_step(run, step, command, read_log)
    wait_for_step(run, 2, command, read_log, kind="checkpoint")  # before the first one there is nothing to go on from
    time.sleep(pause)  # somewhere in the next step, or while its checkpoint is written
    command.send(signal.SIGKILL)
    assert command.wait() == [-signal.SIGKILL]
    assert not (run / "encoder.safetensors").exists()
    assert main(arguments) == 0
    require_equal(weights(run), uninterrupted, f"killed {pause:.2f} s after step {step}")
    assert not list((run / "checkpoints").glob("*.part"))
    log = read_log(run)
    assert [line["step"] for line in log if line["kind"] == "train"] == list(range(1, STEPS + 1))
    assert [line["step"] in (2, 4) for line in log if line["kind"] == "resume"] == [True]


def test_sigterm_saves_and_exits_with_0_and_the_rest_follows(
    pretrain_arguments: Arguments, launch: Launch, tmp_path: Path, read_log: Callable, uninterrupted: dict[str, torch.Tensor]
) -> None:
    arguments, run = pretrain_arguments(steps=STEPS, save_every=100), tmp_path / "run"
    command = launch("train.pretrain", arguments)
    wait_for_step(run, 1, command, read_log)
    command.send(signal.SIGTERM)
    assert command.wait() == [0], command.said()
    (stopped_at,) = Checkpoints(run / "checkpoints", ONE, 3).steps()
    assert 1 <= stopped_at < STEPS and not (run / "encoder.safetensors").exists()
    assert main(arguments) == 0
    require_equal(weights(run), uninterrupted, f"stopped after step {stopped_at}")
    assert {"kind": "resume", "step": stopped_at, "ranks": 1} in read_log(run)


def test_two_ranks_of_which_one_is_told_to_stop_go_on_as_four_and_as_one(
    pretrain_arguments: Arguments, launch: Launch, tmp_path: Path, read_log: Callable
) -> None:
    options = {"batch_size": 8, "dropout": 0.0, "save_every": 100}
    run, alone = tmp_path / "run", tmp_path / "alone"
    command = launch("train.pretrain", pretrain_arguments(steps=STEPS, **options), ranks=2)
    wait_for_step(run, 1, command, read_log)
    command.send(signal.SIGTERM, rank=1)
    assert command.wait() == [0, 0], command.said()
    (stopped_at,) = Checkpoints(run / "checkpoints", ONE, 3).steps()
    assert 1 <= stopped_at < STEPS
    command = launch("train.pretrain", pretrain_arguments(steps=STEPS, **options), ranks=4)
    assert command.wait() == [0] * 4, command.said()
    assert main(pretrain_arguments("alone", steps=STEPS, **options)) == 0
    assert [{"step": line["step"], "ranks": line["ranks"]} for line in read_log(run) if line["kind"] == "resume"] == [
        {"step": stopped_at, "ranks": 4}
    ]
    together, expected = ([line for line in read_log(folder) if line["kind"] == "train"] for folder in (run, alone))
    assert [line["step"] for line in together] == list(range(1, STEPS + 1))
    for name in ("loss", "image", "identity", "text", "gradient_norm"):
        assert [line[name] for line in together] == pytest.approx([line[name] for line in expected], rel=2e-3), name


def test_a_full_disk_ends_the_command_and_the_same_command_goes_on_once_there_is_room(
    pretrain_arguments: Arguments, launch: Launch, tmp_path: Path, uninterrupted: dict[str, torch.Tensor]
) -> None:
    arguments, run = pretrain_arguments(steps=STEPS), tmp_path / "run"
    assert main(pretrain_arguments(steps=2)) == 0
    command = launch("train.pretrain", arguments, ranks=2, file_limit=1 << 20)  # the second rank's files may not grow further
    assert command.wait() == [1, 1], command.said()
    assert "The checkpoint of step 4 could not be written" in command.said()
    assert "The checkpoint of step 2 is intact" in command.said() and "Free some space" in command.said()
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000002"]
    assert main(arguments) == 0
    require_equal(weights(run), uninterrupted, "went on after a full disk")


def test_a_checkpoint_is_whole_or_absent_and_only_the_last_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, ONE, keep_last=2)
    assert checkpoints.latest() is None
    for step in (1, 2, 3):
        checkpoints.save(step, {"a": torch.full((5,), float(step)), "b": torch.tensor(step)}, {"config": {}})
    (tmp_path / "step-00000004.part").mkdir()  # what a killed run leaves
    assert checkpoints.latest() == (3, {"config": {}, "step": 3})
    assert checkpoints.steps() == [2, 3] and not list(tmp_path.glob("*.part"))
    state = checkpoints.saved(3)
    assert torch.equal(state["a"], torch.full((5,), 3.0)) and state["b"] == 3 and state["b"].dtype == torch.int64


def save(rank: int, world: int, folder: Path) -> dict[str, list[float]]:
    checkpoints = Checkpoints(folder, Ranks(rank, world, torch.device("cpu")), keep_last=2)
    folder.mkdir(exist_ok=True)
    for step in (1, 2):
        state = {"weight": torch.full((4,), float(step)), f"own{rank}": torch.full((2,), rank + step / 10)}
        checkpoints.begin(step, state, {"config": {}})
        for tensor in state.values():
            tensor.zero_()  # the next step overwrites what is being saved
    checkpoints.finish()
    saved = checkpoints.saved(2)
    return {name: saved[name].tolist() for name in ("weight", "own0", "own1")}


@pytest.mark.program
def test_ranks_write_together_while_they_go_on(run_ranks: Any, tmp_path: Path) -> None:
    first, second = run_ranks(save, 2, tmp_path / "checkpoints")
    assert first == second and first["weight"] == [2.0] * 4
    assert first["own0"] == pytest.approx([0.2] * 2) and first["own1"] == pytest.approx([1.2] * 2)
    files = {path.name for path in (tmp_path / "checkpoints" / "step-00000002").iterdir()}
    assert {"run.json", ".metadata"} < files and len([name for name in files if name.endswith(".distcp")]) == 2


def test_a_full_disk_costs_the_new_checkpoint_not_the_old_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, ONE, keep_last=1)
    checkpoints.save(1, {"a": torch.arange(10)}, {"config": {}})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))  # files may not grow further: what a full disk does
    try:
        with pytest.raises(CheckpointWriteError, match="step 2 could not be written") as error:
            checkpoints.save(2, {"a": torch.zeros(1 << 20)}, {"config": {}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "The checkpoint of step 1 is intact" in str(error.value) and "Free some space" in str(error.value)
    assert checkpoints.steps() == [1] and torch.equal(checkpoints.saved(1)["a"], torch.arange(10))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_run_is_not_resumed_with_other_towers_or_precision(
    pretrain_arguments: Arguments, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(pretrain_arguments(steps=1)) == 0
    assert main(pretrain_arguments(steps=2, seed=1)) == 1
    assert "The interrupted run had another face tower" in capsys.readouterr().err
    assert main(pretrain_arguments(steps=2, dtype="bf16")) == 1
    assert "was written by a run of another model" in capsys.readouterr().err


def test_a_batch_smaller_than_the_ranks_is_refused(pretrain_arguments: Arguments) -> None:
    config = parse(PretrainConfig, pretrain_arguments(steps=1, batch_size=1))
    with pytest.raises(ValueError, match="A global batch of 1 cannot be dealt to 2 ranks"):
        build(config, Ranks(0, 2, torch.device("cpu")))
