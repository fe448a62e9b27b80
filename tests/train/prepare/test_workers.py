"""The engines of preparing: many processes, killed and taken up again, and Ray, all make the same bytes."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from operator import methodcaller
from pathlib import Path
from types import ModuleType

import numpy as np
import psutil
import pytest
from PIL import Image

from train.data import workers
from train.data.shards import ShardSource
from train.data.workers import EngineError, run, tell, worker_device
from train.prepare.command import main


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


def killed_after_first_unit(command: list[str], out: Path, env: dict[str, str] | None = None) -> list[psutil.Process]:
    """Run a command until it has done a unit, kill it wherever it is by then, and return the processes that it had."""
    killed = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while not list(out.glob("units/*.json")):
        assert killed.poll() is None, "ended before it wrote anything"
        time.sleep(0.01)
    workers = psutil.Process(killed.pid).children(recursive=True)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    return workers


@pytest.mark.training
def test_a_killed_run_is_taken_up_and_ends_with_the_same_bytes(many: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "train.prepare", str(many), str(out), *FLAGS, "--workers", "2"]
    workers = killed_after_first_unit(command, out)
    _, left = psutil.wait_procs(workers, timeout=60)
    assert all(worker.status() == psutil.STATUS_ZOMBIE for worker in left), "workers went on without the run"
    done = {path.name: path.stat().st_mtime_ns for path in out.glob("units/*.json")}
    (out / ".shard-000003.tar.1.partial").write_bytes(b"half a shard")  # as a kill in the middle of writing leaves it
    assert main([str(many), str(out), *FLAGS, "--workers", "2"]) == 0
    assert contents(out) == whole
    assert done.items() <= {path.name: path.stat().st_mtime_ns for path in out.glob("units/*.json")}.items()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Ray cluster of this machine, and its address."""
    import ray

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else Ray writes a token into the home folder
    context = ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield context.address_info["gcs_address"]
    ray.shutdown()


@pytest.mark.training
def test_a_killed_run_on_a_ray_cluster_is_taken_up_and_ends_with_the_same_bytes(
    many: Path, whole: dict[str, bytes], cluster: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    flags = [str(many), str(out), *FLAGS, "--engine", "ray", "--workers", "1"]
    killed_after_first_unit([sys.executable, "-m", "train.prepare", *flags], out, {**os.environ, "RAY_ADDRESS": cluster})
    done = {path.name: path.stat().st_mtime_ns for path in out.glob("units/*.json")}
    assert main(flags) == 0
    assert contents(out) == whole
    assert done.items() <= {path.name: path.stat().st_mtime_ns for path in out.glob("units/*.json")}.items()


@pytest.mark.training
def test_insightface_is_loaded_once_in_every_worker(tmp_path: Path) -> None:
    stand_ins = load_test_file(Path(__file__).parents[2] / "faceclip" / "face" / "test_insightface.py")
    pack = tmp_path / "home" / ".insightface" / "models" / "buffalo_l"
    pack.mkdir(parents=True)
    stand_ins._save_detector(pack / "det.onnx")  # finds red squares
    photos, out = tmp_path / "in", tmp_path / "out"
    photos.mkdir()
    for n in range(6):
        squares = [(320, 160, 32)] if n else []
        Image.fromarray(stand_ins._picture(640, 480, *squares)).save(photos / f"{n}.png")
        (photos / f"{n}.txt").write_text("a red square on grey")
    flags = ["--detector", "insightface", "--provider", "cpu", "--shard-size", "1", "--min-sharpness", "0", "--workers", "2"]
    command = [sys.executable, "-m", "train.prepare", str(photos), str(out), *flags]
    # Python runs this at every start, that of workers too: they tell what they load, and who they are.
    log = (
        f"import logging; logging.basicConfig(filename={str(tmp_path / 'log')!r}, level='INFO', format='%(process)d %(message)s')"
    )
    (tmp_path / "sitecustomize.py").write_text(log)
    env = {**os.environ, "HOME": str(tmp_path / "home"), "PYTHONPATH": str(tmp_path)}
    run = subprocess.run(command, env=env, text=True, capture_output=True)
    assert run.returncode == 0, run.stderr
    loaded = [line.split()[0] for line in (tmp_path / "log").read_text().splitlines() if "Face detector: InsightFace" in line]
    assert len(loaded) in (1, 2) and len(set(loaded)) == len(loaded)  # two workers at most, for six units
    source = ShardSource(out)
    assert len(source) == 5 and source[0].meta["landmark_kind"] == "arcface"
    np.testing.assert_allclose(source[0].meta["landmarks"], stand_ins.LANDMARKS * 32 + (320, 160), atol=1)
    (line,) = (out / "dropped.jsonl").read_text().splitlines()
    assert "none found by InsightFace buffalo_l (cpu)" in line


def load_test_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_missing_pack_is_explained(many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--detector", "insightface", "--pack", "no_such_pack", "--provider", "cpu", "--workers", "1"]
    assert main([str(many), str(tmp_path), *flags]) == 1
    assert "InsightFace's pack 'no_such_pack' was not found. Download" in capsys.readouterr().err


def test_a_worker_that_dies_is_explained() -> None:
    with pytest.raises(EngineError, match="A worker process died, most likely for want of memory. Run the same command again"):
        list(run("processes", os._exit, [3, 4], 2))


@pytest.mark.parametrize("number", [1, 2])
def test_work_tells_of_every_item_and_jobs_are_asked_for_as_they_are_wanted(number: int) -> None:
    asked: list[int] = []
    told: list[int] = []

    def jobs() -> Iterator[int]:
        for job in range(40):
            asked.append(job)
            yield job

    results = run("processes", tell, jobs(), number, on_progress=told.append)
    next(results)
    assert len(asked) <= 1 + 4 * number
    assert len(list(results)) == 39
    assert sum(told) == sum(range(40))


def test_processes_take_a_machines_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for place, device in ((0, "cuda:0"), (1, "cuda:1"), (2, "cuda:0")):
        monkeypatch.setattr("train.data.workers._here", workers._Here(lambda count: None, place=place))
        assert worker_device() == device
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("train.data.workers._here", workers._Here(lambda count: None))
    assert worker_device() == "cpu"


@pytest.mark.training
def test_an_actor_of_ray_has_the_gpu_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)  # a GPU by its word alone
    try:
        told: list[int] = []
        assert len(list(run("ray", tell, iter(range(4)), 2, gpus=0.5, on_progress=told.append))) == 4
        assert sum(told) == 6
        ask = methodcaller("__call__")  # what a worker can import, as it cannot this file
        assert list(run("ray", ask, [worker_device], 1, gpus=0.5)) == ["cuda:0"]
        assert list(run("ray", ask, [worker_device], 1)) == ["cpu"]
        with pytest.raises(EngineError, match="3 workers with 0.5 GPUs each are asked for, and the Ray cluster has 1 GPUs"):
            next(run("ray", tell, [0], 3, gpus=0.5))
    finally:
        ray.shutdown()


def test_gpus_without_ray_are_refused(many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(many), str(tmp_path / "out"), "--gpus-per-worker", "1"]) == 1
    assert "gpus_per_worker is 1 with the engine processes. Only Ray gives GPUs out" in capsys.readouterr().err
