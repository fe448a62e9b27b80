"""The engines of preparing: many processes, killed and taken up again, and Ray, all make the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from train.engines import EngineError, run
from train.prepare import main


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray) -> Path:
    """Ten pictures, all different, one of them broken."""
    root = tmp_path_factory.mktemp("many")
    for n in range(10):
        Image.fromarray(astronaut[n : 300 + n, 100 : 380 + n]).save(root / f"{n}.jpg")
        (root / f"{n}.txt").write_text(f"an astronaut in an orange suit, number {n}")
    (root / "4.jpg").write_bytes(b"broken")
    return root


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


FLAGS = ["--detector", "dlib", "--shard-size", "2"]


@pytest.fixture(scope="module")
def whole(many: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed run in one process makes of `many`."""
    out = tmp_path_factory.mktemp("whole")
    assert main([str(many), str(out), *FLAGS, "--workers", "1"]) == 0
    return contents(out)


def test_a_killed_run_is_taken_up_and_ends_with_the_same_bytes(many: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "train.prepare", str(many), str(out), *FLAGS, "--workers", "2"]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while not list(out.glob("units/*.json")):
        assert killed.poll() is None, "ended before it wrote anything"
        time.sleep(0.01)
    workers = psutil.Process(killed.pid).children(recursive=True)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    _, left = psutil.wait_procs(workers, timeout=60)
    assert all(worker.status() == psutil.STATUS_ZOMBIE for worker in left), "workers went on without the run"
    done = {path.name: path.stat().st_mtime_ns for path in out.glob("units/*.json")}
    (out / ".shard-000003.tar.1.partial").write_bytes(b"half a shard")  # as a kill in the middle of writing leaves it
    assert main([str(many), str(out), *FLAGS, "--workers", "2"]) == 0
    assert contents(out) == whole
    assert done.items() <= {path.name: path.stat().st_mtime_ns for path in out.glob("units/*.json")}.items()


def test_ray_makes_the_same_shards(many: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else Ray writes a token into the home folder

    try:
        assert main([str(many), str(tmp_path / "out"), *FLAGS, "--engine", "ray", "--workers", "2"]) == 0
    finally:
        ray.shutdown()
    assert contents(tmp_path / "out") == whole


def test_a_worker_that_dies_is_explained() -> None:
    with pytest.raises(EngineError, match="A worker process died, most likely for want of memory. Run the same command again"):
        list(run("processes", os._exit, [3, 4], 2))
