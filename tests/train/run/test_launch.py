"""Several processes make one run, by each launcher; and when one of them fails, all end and say why."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from train.data.shards import ShardSource
from train.run.ranks import LaunchError, place_among_ranks

Arguments = Callable[..., list[str]]
Launch = Callable[..., Any]


def start(launcher: list[str], module: str, arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """A command as users type it, to its end."""
    command = [sys.executable, *launcher, "-m", module, *arguments]
    found = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=found, check=False)


@pytest.mark.parametrize(
    "launcher",
    [
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"],
        [
            "-m",
            "accelerate.commands.launch",
            "--multi_gpu",
            "--num_processes=2",
            "--main_process_port=0",
            "--mixed_precision=bf16",
        ],
    ],
    ids=["torchrun", "accelerate"],
)
def test_a_launcher_of_two_processes_makes_one_run_of_two_ranks(
    launcher: list[str], pretrain_arguments: Arguments, tmp_path: Path, read_log: Callable
) -> None:
    done = start(launcher, "train.pretrain", pretrain_arguments(steps=2))
    assert done.returncode == 0, done.stdout[-3000:]
    assert "Training on 2 ranks (cpu), 2 rows each." in done.stdout
    assert not [word for word in ("absl", "deprecat", "FutureWarning", "UserWarning") if word in done.stdout]
    assert [line["step"] for line in read_log(tmp_path / "run") if line["kind"] == "train"] == [1, 2]
    assert ("accelerate's mixed precision is not used: see --dtype" in done.stdout) == ("--mixed_precision=bf16" in launcher)
    assert len(list((tmp_path / "run" / "checkpoints" / "step-00000002").glob("*.distcp"))) == 2  # each wrote its part


def test_accelerate_that_started_one_process_instead_of_two_is_told_how_to(pretrain_arguments: Arguments, tmp_path: Path) -> None:
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes=2"]
    done = start(launcher, "train.pretrain", pretrain_arguments(steps=2))
    assert done.returncode == 1
    assert "accelerate was asked for several processes and started one. Give it --multi_gpu instead of --cpu" in done.stdout
    assert not (tmp_path / "run").exists()


def test_ranks_are_found_in_the_variables_of_each_launcher() -> None:
    assert place_among_ranks({}) == (0, 1, 0)
    assert place_among_ranks({"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "MASTER_PORT": "1"}) == (9, 16, 1)
    mpi = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
    accelerate = {"ACCELERATE_MIXED_PRECISION": "no"}
    assert place_among_ranks({**accelerate, **mpi, "MASTER_PORT": "29500"}) == (3, 4, 1)
    assert place_among_ranks({"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1"}) == (1, 2, 1)
    assert place_among_ranks(accelerate) == (0, 1, 0)
    with pytest.raises(LaunchError, match="WORLD_SIZE is 4, but RANK is not set"):
        place_among_ranks({"WORLD_SIZE": "4"})


def test_a_batch_that_cannot_be_dealt_ends_all_ranks_with_the_reason(
    pretrain_arguments: Arguments, launch: Launch, tmp_path: Path
) -> None:
    command = launch("train.pretrain", pretrain_arguments(steps=2, batch_size=3), ranks=2)
    assert command.wait() == [1, 1], command.said()
    assert "A global batch of 3 cannot be dealt to 2 ranks" in command.said()
    assert "Traceback" not in command.said()
    assert not (tmp_path / "run").exists()


def test_a_shard_that_one_rank_cannot_read_ends_all_ranks_with_the_reason(
    pretrain_arguments: Arguments, launch: Launch, shards: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "shards"
    shutil.copytree(shards, copy)
    source = ShardSource(copy)
    broken = source[5].key
    spoil_picture(copy / "000.tar", f"{broken}.jpg")
    command = launch("train.pretrain", pretrain_arguments(steps=100, data=copy, guided_fraction=0.0, guided=""), ranks=2)
    assert command.wait() == [1, 1], command.said()
    said = command.said()
    assert said.count(f"The sample '{broken}' (row 5) cannot be used") == 2  # by the rank that met it, and by the other
    assert "stops, since rank" in said and "Traceback" not in said


def spoil_picture(shard: Path, member: str) -> None:
    """Overwrite a file within a tar, in place."""
    with tarfile.open(shard) as tar:
        found = tar.getmember(member)
    with shard.open("r+b") as file:
        file.seek(found.offset_data)
        file.write(b"\0" * found.size)


STUCK = """
import time
from train.run import ranks

ranks._GRACE = 0.1
with ranks.distributed() as group:
    if group.rank == 1:
        raise ValueError("The disk of rank 1 is on fire.")
    time.sleep(600)  # as in a collective that waits for rank 1
"""


@pytest.mark.program
def test_a_rank_stuck_in_waiting_is_ended_when_another_fails(port: str) -> None:
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    # No launcher, as under Slurm: nobody but they themselves ends them.
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", STUCK], stderr=subprocess.PIPE, text=True, env={**os.environ, **group, "RANK": rank}
        )
        for rank in "01"
    ]
    (_, waiting), (_, failed) = (rank.communicate(timeout=120) for rank in ranks)
    assert [rank.returncode for rank in ranks] == [1, 1]
    assert "ValueError: The disk of rank 1 is on fire." in failed
    assert "Rank 0 stops, since rank 1 failed: The disk of rank 1 is on fire." in waiting
