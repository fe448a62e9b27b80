"""Several processes for a test: the ranks of a gloo process group on this machine."""

from __future__ import annotations

import inspect
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

RANK = Path(__file__).with_name("rank.py")
PATIENCE = 300  # seconds until ranks that wait for each other are given up

RunRanks = Callable[..., list[Any]]


@pytest.fixture(scope="session")
def run_ranks(tmp_path_factory: pytest.TempPathFactory) -> RunRanks:
    """`run_ranks(function, world, *args)` calls `function(rank, world, *args)` in `world` processes of one gloo group, and
    returns what they return, by rank. `function` is one of the test file's own, at its top level."""

    def run(function: Callable[..., Any], world: int, *args: Any) -> list[Any]:
        folder = tmp_path_factory.mktemp(function.__name__)
        torch.save(args, folder / "arguments")
        command = [sys.executable, RANK, inspect.getfile(function), function.__module__, function.__name__, folder]
        logs = [(folder / f"log{rank}").open("w") for rank in range(world)]
        processes = [
            subprocess.Popen([*command, str(rank), str(world)], stdout=log, stderr=subprocess.STDOUT)
            for rank, log in enumerate(logs)
        ]
        try:
            failed = _wait(processes)
        finally:
            for process in processes:
                process.kill()
                process.wait()
            for log in logs:
                log.close()
        if failed is not None:
            pytest.fail(f"Rank {failed} of {world}, {function.__name__}:\n{(folder / f'log{failed}').read_text()}", pytrace=False)
        return [torch.load(folder / f"result{rank}", weights_only=False) for rank in range(world)]

    return run


def _wait(processes: list[subprocess.Popen[bytes]]) -> int | None:
    """Until all have ended well (None), or one has not (its number): the others would wait for it for ever."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        codes = [process.poll() for process in processes]
        for rank, code in enumerate(codes):
            if code:
                return rank
        if all(code == 0 for code in codes):
            return None
        time.sleep(0.05)
    return next(rank for rank, process in enumerate(processes) if process.poll() is None)
