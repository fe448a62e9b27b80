"""The ranks of a test's process group: python ranks.py FILE MODULE FUNCTION FOLDER WORLD (see conftest.py).

Imports the test file once and forks (on Linux): importing torch in every rank would take longer than most
tests. Exits with 1 as soon as one rank fails, since the others would wait for it forever.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch._dynamo  # what optimisers and DistributedDataParallel import on first use
import torch.distributed as dist

PATIENCE = 300  # seconds until ranks that wait for each other are given up


def main(file: str, module: str, function: str, folder: str, world: int) -> int:
    load(file, module)  # before the fork
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    ranks = [context.Process(target=run, args=(file, module, function, folder, rank, world)) for rank in range(world)]
    for rank in ranks:
        rank.start()
    try:
        return 0 if all_end_well(ranks) else 1
    finally:
        for rank in ranks:
            rank.kill()


def all_end_well(ranks: Sequence[BaseProcess]) -> bool:
    deadline = time.monotonic() + PATIENCE
    running = {rank.sentinel: rank for rank in ranks}
    while running:
        ended = wait(list(running), timeout=deadline - time.monotonic())
        if not ended:
            print(f"{len(running)} of {len(ranks)} ranks have not ended after {PATIENCE} s.", file=sys.stderr)
            return False
        for sentinel in ended:
            rank = running.pop(sentinel)  # pyright: ignore[reportArgumentType]
            rank.join()
            if rank.exitcode:
                return False
    return True


def run(file: str, module: str, function: str, folder: str, rank: int, world: int) -> None:
    """One rank: its result, saved in `folder`."""
    torch.set_num_threads(1)  # several processes that spin for the same cores stall each other
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    call: Callable[..., Any] = getattr(load(file, module), function)
    dist.init_process_group("gloo", init_method=f"file://{Path(folder) / 'rendezvous'}", rank=rank, world_size=world)
    result = call(rank, world, *torch.load(Path(folder) / "arguments", weights_only=False))
    dist.barrier()  # nobody leaves while another still receives
    torch.save(result, Path(folder) / f"result{rank}")
    dist.destroy_process_group()


def load(file: str, module: str) -> Any:
    """The test file, under pytest's name for it, so that pytest can read objects of its classes."""
    if module not in sys.modules:
        *packages, _ = module.split(".")
        for depth in range(len(packages)):  # pickle asks for them, and no path leads to them
            package = ".".join(packages[: depth + 1])
            sys.modules.setdefault(package, ModuleType(package))
        spec = importlib.util.spec_from_file_location(module, file)
        assert spec and spec.loader
        sys.modules[module] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[module])
    return sys.modules[module]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5])))
