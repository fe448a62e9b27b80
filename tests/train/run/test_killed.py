"""Everything at once that makes a resumption hard: phases, rotten samples, batches and conditions read ahead by
another process or thread, checkpoints that are still being written; and a kill at any moment."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from train.finetune_sdxl.command import main as finetune
from train.pretrain.command import main as pretrain

from .test_checkpointing import Launch, wait_for_step
from .test_phases import rot

STEPS = 7
TOGETHER = {
    "steps": STEPS,
    "tolerate": 2,
    "save_every": 1,
    "keep_last": 2,
    "phases": ("steps=3,batch_size=6,lr=2e-3", "batch_size=4"),
}


@pytest.mark.parametrize("stage", ["pretrain", "finetune_sdxl"])
def test_a_killed_run_ends_with_the_same_bytes_with_everything_together(
    stage: str,
    shards: Path,
    pretrain_arguments: Callable[..., list[str]],
    finetune_command: Callable[..., list[str]],
    launch: Launch,
    tmp_path: Path,
    read_log: Callable,
) -> None:
    shutil.copytree(shards, tmp_path / "shards")
    keys = rot(tmp_path / "shards", [5, 17])
    options: dict[str, Any] = {**TOGETHER, "data": tmp_path / "shards"}
    if stage == "pretrain":
        main, files = pretrain, ["encoder.safetensors", "heads.safetensors"]
        arguments = {out: pretrain_arguments(out, guided=None, reader_processes=1, **options) for out in ("whole", "killed")}
    else:
        main, files = finetune, [f"{kind}/diffusion_pytorch_model.safetensors" for kind in ("unet", "unet_last")]
        options |= {"resolution": 64, "remember_conditions": True, "ema": 0.9, "dtype": "bf16", "micro_batch": 2}
        arguments = {out: finetune_command(tmp_path / out, **options) for out in ("whole", "killed")}
    assert main(arguments["whole"]) == 0
    step, pause = random.randint(2, STEPS - 2), random.uniform(0, 0.3)
    run = tmp_path / "killed"
    command = launch(f"train.{stage}", arguments["killed"])
    wait_for_step(run, step, command, read_log)
    wait_for_step(run, 1, command, read_log, kind="checkpoint")  # before the first one there is nothing to go on from
    time.sleep(pause)
    readers = command.children()
    command.send(signal.SIGKILL)
    assert command.wait() == [-signal.SIGKILL]
    assert (readers or stage != "pretrain") and not psutil.wait_procs(readers, timeout=60)[1]
    assert not (run / files[0]).exists()
    assert main(arguments["killed"]) == 0
    for file in files:
        assert (run / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), f"killed {pause:.2f} s after step {step}"
    log = read_log(run)
    assert sum(line["kind"] == "resume" for line in log) == 1
    assert [line["step"] for line in log if line["kind"] == "train"] == list(range(1, STEPS + 1))
    assert {line["key"] for line in log if line["kind"] == "unusable"} == set(keys)
