"""A cache whose command was killed: the same command goes on and ends with the same files."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from train.cache.command import main
from train.data.shards import Sample, write_shard


def picture(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((side, side)).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.training
def test_a_killed_command_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    shards, out = tmp_path / "shards", tmp_path / "c"
    face = picture(448)
    write_shard(shards / "a.tar", [Sample(f"k{n}", picture(80 + n), face, f"a photo of person {n}") for n in range(8)])
    flags = [
        "--teacher",
        "mini",
        "--size",
        "mini",
        "--batch-size",
        "1",
        "--threads",
        "2",
        "--captions",
        "--patch-dtype",
        "float32",
    ]
    command = [sys.executable, "-m", "train.cache", "pretrain", "--data", str(shards), "--out", str(out), *flags]
    # As many threads as here: sums over other numbers of threads differ in their last bits.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    while not (out / "cache.json").exists() or not np.load(out / "done.npy").any():
        assert killed.poll() is None, "ended before it wrote anything"
        time.sleep(0.005)
    killed.kill()
    assert killed.wait() in (0, -signal.SIGKILL)  # 0: it was quicker
    before = int(np.load(out / "done.npy").sum())
    (out / ".class_token.npy.1.partial").write_bytes(b"half an array")  # as a kill in the middle of making one leaves it
    assert before >= 1 and main(command[3:]) == 0
    again = {path.name: path.read_bytes() for path in out.iterdir()}
    assert main(["pretrain", "--data", str(shards), "--out", str(tmp_path / "whole"), *flags]) == 0
    assert again == {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
