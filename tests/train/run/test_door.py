"""What lies in a run's folder, and who else is in it: told in one line, and nothing of it runs."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint import FileSystemWriter

from train.data.batches import warn_of_few
from train.run.checkpointing import Checkpoints, CheckpointWriteError, ResumeError
from train.run.command_line import parse
from train.run.config import ConfigError, RunConfig
from train.run.folder_lock import FolderInUseError, held
from train.run.ranks import LaunchError, Ranks, place_among_ranks

ONE = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    """Two checkpoints, of steps 2 and 3."""
    made = Checkpoints(tmp_path, ONE, keep_last=2)
    for step in (2, 3):
        made.save(step, {"model.w": torch.full((3,), float(step)), "model.n": torch.tensor(step)}, {"config": {}})
    return made


class Evil:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_checkpoints_metadata_runs(checkpoints: Checkpoints, tmp_path: Path) -> None:
    place = checkpoints.path(3) / ".metadata"
    for content in (pickle.dumps(Evil(tmp_path / "ran")), pickle.dumps(Evil(tmp_path / "ran"), protocol=0)):
        place.write_bytes(content)
        with pytest.raises(ResumeError, match=r"step-00000003 is damaged: it names \w+\.mkdir, which no checkpoint has"):
            checkpoints.saved(3)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name", ["torch.distributed.checkpoint.filesystem\nos.system", "torch.distributed.checkpoint.filesystem\nFileSystem"]
)
def test_a_way_around_by_a_known_module_is_closed(name: str, checkpoints: Checkpoints) -> None:
    (checkpoints.path(3) / ".metadata").write_bytes(f"c{name}\n.".encode())
    with pytest.raises(ResumeError, match="which no checkpoint has"):
        checkpoints.saved(3)


def test_a_checkpoint_does_not_lead_out_of_its_folder(checkpoints: Checkpoints) -> None:
    place = checkpoints.path(3) / ".metadata"
    content = place.read_bytes()
    name = next(path.name for path in checkpoints.path(3).iterdir() if path.suffix == ".distcp").encode()
    place.write_bytes(content.replace(name, b"../" + name[3:]))
    with pytest.raises(ResumeError, match="outside of its folder"):
        checkpoints.saved(3)


@pytest.mark.parametrize(
    "name", ["step-00000003.bak", "step-00000003 (copy)", "step-00000001-backup", "step-7", "step-", "notes"]
)
def test_what_people_keep_beside_checkpoints_is_left_alone(name: str, checkpoints: Checkpoints) -> None:
    shutil.copytree(checkpoints.path(3), checkpoints.folder / name)
    (checkpoints.folder / f"{name}.part").mkdir()
    found = checkpoints.latest()
    assert found is not None and found[0] == 3 and found[1]["config"] == {}
    checkpoints.save(4, {"model.w": torch.zeros(3)}, {"config": {}})
    assert checkpoints.steps() == [3, 4]
    assert {path.name for path in checkpoints.folder.iterdir()} >= {name, f"{name}.part"}


DAMAGE: dict[str, Callable[[Path], object]] = {
    "an empty folder": lambda folder: (folder.parent / "step-00000009").mkdir(),
    "notes cut short": lambda folder: (folder / "run.json").write_bytes(b"{"),
    "notes of another kind": lambda folder: (folder / "run.json").write_bytes(b"[]"),
    "notes without a configuration": lambda folder: (folder / "run.json").write_bytes(b"{}"),
    "notes nested deep": lambda folder: (folder / "run.json").write_bytes(b"[" * 100_000),
    "metadata of a lost class": lambda folder: (folder / ".metadata").write_bytes(b"cnot_there\nBar\n."),
    "metadata cut to a stop": lambda folder: (folder / ".metadata").write_bytes(b"\x80\x04."),
    "metadata of another kind": lambda folder: (folder / ".metadata").write_bytes(b"\x80\x04}."),
    "no metadata": lambda folder: (folder / ".metadata").unlink(),
    "tensors cut short": lambda folder: next(folder.glob("*.distcp")).write_bytes(b"PK\x03\x04"),
    "no tensors": lambda folder: next(folder.glob("*.distcp")).unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_told_in_one_line_with_what_to_do(damage: str, checkpoints: Checkpoints) -> None:
    DAMAGE[damage](checkpoints.path(3))
    with pytest.raises(ResumeError, match=r"is damaged: .*Delete that folder, and the same command goes on") as told:
        found = checkpoints.latest()
        assert found
        _ = found[1]["config"]
        _ = checkpoints.saved(found[0])["model.w"]
    assert "\n" not in str(told.value) and "Traceback" not in str(told.value)


def test_a_checkpoint_that_cannot_be_written_is_told_in_one_line(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FileSystemWriter, "write_data", fail)  # in the thread that writes while training goes on
    with pytest.raises(CheckpointWriteError, match="No space left on device.*step 3 is intact. Free some space") as told:
        checkpoints.save(4, {"model.w": torch.zeros(3)}, {"config": {}})
    assert "\n" not in str(told.value) and checkpoints.steps() == [2, 3]
    assert not list(checkpoints.folder.glob("*.part"))


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        held(tmp_path / "run"),
        pytest.raises(FolderInUseError, match="Another process is training into .*run right now"),
        held(tmp_path / "run"),
    ):
        pass
    with held(tmp_path / "run"):
        pass


STEP = {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}


def test_processes_that_srun_started_join_or_are_told_how() -> None:
    with pytest.raises(LaunchError, match="srun started 2 processes.*MASTER_ADDR.*torchrun"):
        place_among_ranks(STEP)
    assert place_among_ranks({**STEP, "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}) == (1, 2, 1)
    assert place_among_ranks({**STEP, "SLURM_STEP_NUM_TASKS": "1"}) == (0, 1, 0)
    assert place_among_ranks({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}) == (0, 1, 0)  # a batch script
    assert place_among_ranks({**STEP, "RANK": "3", "WORLD_SIZE": "4"}) == (3, 4, 0)  # torchrun within


def test_a_batch_larger_than_the_data_is_told(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_few(12, 12)
    assert not caplog.text
    warn_of_few(12, 16)
    assert "batch of 16 rows is larger than the data, 12 samples" in caplog.text


BILLIONS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"lr: [1", "not YAML that can be read"),
        (b"a:\n\t- b", "not YAML that can be read"),
        (b"lr: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        (b"out: \xe9", "can't decode byte"),
        (b"lr: 1\n---\nlr: 2", "expected a single document"),
        (b'out: "C:\\data\\run"', "write paths without quotes"),
        (b"a: " + b"[" * 100_000, "not YAML that can be read"),
        (BILLIONS.encode(), "unfolds to more than 1,000,000 values"),
    ],
)
def test_a_configuration_that_is_no_yaml_is_told(text: bytes, told: str, tmp_path: Path) -> None:
    class Toy(RunConfig):
        """A toy."""

        command = "toy"

    (tmp_path / "c.yaml").write_bytes(text)
    with pytest.raises(ConfigError, match=rf"c\.yaml is not YAML.*{told}|c\.yaml is {told}"):
        parse(Toy, ["--config", str(tmp_path / "c.yaml")])
