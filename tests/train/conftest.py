"""Several processes for a test: the ranks of a gloo process group on this machine."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

LAUNCHER = Path(__file__).with_name("ranks.py")

RunRanks = Callable[..., list[Any]]


@pytest.fixture(scope="session")
def run_ranks(tmp_path_factory: pytest.TempPathFactory) -> RunRanks:
    """`run_ranks(function, world, *args)` calls `function(rank, world, *args)` in `world` processes of one gloo group, and
    returns what they return, by rank. `function` is one of the test file's own, at its top level."""

    def run(function: Callable[..., Any], world: int, *args: Any) -> list[Any]:
        folder = tmp_path_factory.mktemp(function.__name__)
        torch.save(args, folder / "arguments")
        command = [
            sys.executable,
            LAUNCHER,
            inspect.getfile(function),
            function.__module__,
            function.__name__,
            folder,
            str(world),
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            pytest.fail(f"{function.__name__} on {world} ranks:\n{done.stdout}", pytrace=False)
        return [torch.load(folder / f"result{rank}", weights_only=False) for rank in range(world)]

    return run
