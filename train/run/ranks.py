"""Ranks: one process each, found through the variables that a launcher sets; a plain process is rank 0 of 1."""

# torch documents its stores and rendezvous without listing them.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import inspect
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

_KEY = "failure"
_PAUSE = 0.5
"""Seconds between looks."""
_GRACE = 5.0
"""Seconds for a rank to notice by itself (gloo tells it of the closed connection), and to end in good order."""


class PeerError(ValueError):
    """Another rank failed, and this one cannot go on without it."""


@contextmanager
def fail_together(store: dist.Store, rank: int) -> Iterator[None]:
    """While it lasts, an exception on one rank ends every other: by a PeerError with the first one's message, or, if
    it sits in a collective that never returns, by printing that message and leaving with exit code 1. `store` is
    shared by the ranks.

    A process that is killed tells nobody: launchers see to that (torchrun
    ends the others; srun with --kill-on-bad-exit).
    """
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(store.clone(), rank, over), name="peers", daemon=True)
    watch.start()
    try:
        yield
    except Exception as error:
        first, message = _report(store, rank, str(error) or type(error).__name__)
        if first != rank:
            raise _peer_error(rank, first, message) from error
        raise
    finally:
        over.set()
        watch.join()


def _report(store: dist.Store, rank: int, message: str) -> tuple[int, str]:
    """Leave a message unless another rank was first; returns whose is there, and the message."""
    try:
        found = store.compare_set(_KEY, "", f"{rank} {message}").decode()
    except RuntimeError:  # the store went with the process that held it
        return rank, message
    first, _, text = found.partition(" ")
    if int(first) == rank:
        time.sleep(2 * _PAUSE)  # this process may hold the store, which the others read the message from
    return int(first), text


def _watch(store: dist.Store, rank: int, over: threading.Event) -> None:
    while not over.wait(_PAUSE):
        try:
            if not store.check([_KEY]):
                continue
            first, _, message = store.get(_KEY).decode().partition(" ")
        except RuntimeError:
            return
        if int(first) != rank and not over.wait(_GRACE):
            print(f"\n{_peer_error(rank, int(first), message)}", file=sys.stderr, flush=True)
            os._exit(1)
        return


def _peer_error(rank: int, first: int, message: str) -> PeerError:
    return PeerError(f"Rank {rank} stops, since rank {first} failed: {message}")


Value = TypeVar("Value")
Item = TypeVar("Item")

PATIENCE = timedelta(minutes=30)
"""How long ranks wait for one that is silent: as long as one may take to read a checkpoint or to start."""

# Rank, number of ranks and place on its machine, as torchrun (and accelerate, by it), Open MPI, MPICH (and Intel MPI) and MVAPICH
# name them.
_NAMES = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK"),
)


class LaunchError(ValueError):
    """Processes that were started so that they cannot find each other."""


@dataclass(frozen=True)
class Ranks:
    """This process among its peers, and where it computes."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set on any rank: one small collective, so that all ranks decide alike."""
        return [bool(value) for value in self.most([float(flag) for flag in flags])]

    def most(self, values: Sequence[float]) -> list[float]:
        """For each value, the largest of any rank's; one collective."""
        if self.world_size == 1:
            return list(values)
        tensor = torch.tensor(values, device=self.device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor.tolist()

    def mean(self, values: Sequence[float]) -> list[float]:
        """Each value averaged over the ranks."""
        if self.world_size == 1:
            return list(values)
        tensor = torch.tensor(values, device=self.device)
        dist.all_reduce(tensor)
        return (tensor / self.world_size).tolist()

    def broadcast(self, value: Value) -> Value:
        """Rank 0's value, on every rank: for what ranks might see differently, as files on a shared disk."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Value) -> list[Value]:
        """Every rank's value, in their order, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Those of `items` that are dealt to this rank, perhaps none; with those of all ranks, each item once."""
        return items[self.rank :: self.world_size]

    def deal(self, items: Sequence[Item], work: Callable[[Sequence[Item]], Sequence[Value]]) -> list[Value]:
        """Deal `items` out to the ranks, and return what `work` makes of them, in their order, on every rank.

        `work` gets this rank's items, one or more, and returns one value for each.
        """
        mine = self.share(items)
        parts = self.gather(list(work(mine)) if mine else [])
        return [parts[index % self.world_size][index // self.world_size] for index in range(len(items))]

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()


@contextmanager
def distributed() -> Iterator[Ranks]:
    """Join the process group that the environment describes, on this rank's GPU if there is one.

    Leave it at the end.

    An exception on one rank ends all of them. Raises LaunchError for an environment that promises more ranks
    than it makes.
    """
    rank, world_size, local_rank = place_among_ranks(os.environ)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    if world_size == 1:
        yield Ranks(rank, world_size, device)
        return
    store, *_ = next(dist.rendezvous("env://", rank, world_size, timeout=PATIENCE))
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.PrefixStore("group", store), rank=rank, world_size=world_size, timeout=PATIENCE)
    with fail_together(dist.PrefixStore("alarm", store), rank):
        yield Ranks(rank, world_size, device)
    # Only after success: with a peer gone, leaving in good order would wait for it.
    dist.destroy_process_group()


def place_among_ranks(environment: Mapping[str, str]) -> tuple[int, int, int]:
    """Rank, number of ranks, and rank within its machine, from a launcher's variables. Raises LaunchError."""
    for rank, world_size, local_rank in _NAMES:
        if world_size in environment:
            if rank not in environment:
                raise LaunchError(
                    f"{world_size} is {environment[world_size]}, but {rank} is not set: start the command with torchrun."
                )
            return int(environment[rank]), int(environment[world_size]), int(environment.get(local_rank, 0))
    if "SLURM_STEP_ID" in environment:  # not in a batch script, which is one process
        world_size = int(environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", "1")))
        if world_size > 1 and {"SLURM_PROCID", "MASTER_ADDR", "MASTER_PORT"} <= environment.keys():
            return int(environment["SLURM_PROCID"]), world_size, int(environment.get("SLURM_LOCALID", 0))
        if world_size > 1:
            raise LaunchError(
                f"srun started {world_size} processes, which do not know where to find each other. Set MASTER_ADDR (the first "
                "node's name) and MASTER_PORT (a free port) for all of them, or have srun start torchrun once on each node."
            )
    if "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_PORT" in environment:
        # accelerate names a port for several processes, yet starts several only with --multi_gpu (or through MPI).
        raise LaunchError(
            "accelerate was asked for several processes and started one. Give it --multi_gpu instead of --cpu: it then starts "
            "--num_processes of them, on machines without a GPU too. (Or use torchrun --nproc-per-node; for a single process, "
            "unset MASTER_PORT.)"
        )
    return 0, 1, 0


def wrap(model: nn.Module, ranks: Ranks) -> nn.Module:
    """The model in DDP, or itself on a single rank."""
    if ranks.world_size == 1:
        return model
    devices = [ranks.device.index] if ranks.device.type == "cuda" else None
    parameters = inspect.signature(DistributedDataParallel.__init__).parameters
    buffers: Any = {"forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers": False}
    return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True, **buffers)
