"""Training's speed and memory, each next to the common way of doing the same, on one machine in one run.

    python benchmarks/training.py loss [--batches 1024 2048 4096 8192] [--ranks 1] [--chunk 1024] [--device cpu] [--markdown FILE]

`loss`: the contrastive loss, forward and backward, against open_clip's ClipLoss (on several ranks in its sound and lean
setting, local loss with gathered gradients). Features have CLIP-L's width. Every cell has a process of its own per rank; time
is the fastest of the repeats, of the slowest rank; memory is what the process's peak rose by on one rank. Both gradients are
compared before anything is timed.
"""

from __future__ import annotations

import argparse
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from open_clip.loss import ClipLoss
from torch import Tensor

from train.losses import frozen_key_info_nce

WIDTH = 768
SCALE = 50.0
LossFunction = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Setting:
    """What a cell of the table measures."""

    batch: int  # of all ranks
    ranks: int
    chunk: int
    device: str
    repeats: int
    threads: int


@dataclass(frozen=True)
class Cell:
    """Seconds, megabytes and the gradient of rank 0's queries."""

    seconds: float
    megabytes: float
    gradient: Tensor


def main() -> None:
    options = _arguments()
    text = options.measure(options)
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n")


def loss_table(options: argparse.Namespace) -> str:
    """The whole comparison as a Markdown table. Raises ValueError when both losses' gradients differ."""
    lines = [
        f"Contrastive loss, width {WIDTH}, fp32, {options.ranks} rank(s), {_machine(options)}",
        "",
        "| batch | ours, s | ClipLoss, s | ratio | ours, MB | ClipLoss, MB | ratio |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for batch in options.batches:
        setting = Setting(batch, options.ranks, options.chunk, options.device, options.repeats, options.threads)
        ours, theirs = run_cell("ours", setting), run_cell("ClipLoss", setting)
        difference = ((ours.gradient - theirs.gradient).norm() / theirs.gradient.norm()).item()
        if difference > 1e-4:
            raise ValueError(f"The gradients differ by {difference:.1e} at batch {batch}: times would mean nothing.")
        lines.append(
            f"| {batch} | {ours.seconds:.3f} | {theirs.seconds:.3f} | {ours.seconds / theirs.seconds:.2f} "
            f"| {ours.megabytes:.0f} | {theirs.megabytes:.0f} | {ours.megabytes / theirs.megabytes:.2f} |"
        )
    return "\n".join(lines)


def run_cell(which: str, setting: Setting) -> Cell:
    """Measure in fresh processes, so that one cell's peak memory is not another's."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, (which, setting, folder), nprocs=setting.ranks)  # pyright: ignore[reportPrivateImportUsage]
        cells = [torch.load(Path(folder) / f"cell{rank}") for rank in range(setting.ranks)]
    return Cell(max(cell["seconds"] for cell in cells), cells[0]["megabytes"], cells[0]["gradient"])


def _rank(rank: int, which: str, setting: Setting, folder: str) -> None:
    torch.set_num_threads(setting.threads)
    device = torch.device(setting.device, rank) if setting.device == "cuda" else torch.device(setting.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{folder}/rendezvous", rank=rank, world_size=setting.ranks)
    rows = setting.batch // setting.ranks
    generator = torch.Generator().manual_seed(rank)
    queries, keys = (F.normalize(torch.randn(rows, WIDTH, generator=generator), dim=-1).to(device) for _ in range(2))
    scale = torch.tensor(SCALE, device=device, requires_grad=True)
    loss = _ours(setting.chunk) if which == "ours" else _clip_loss(rank, setting.ranks)
    _gradient(loss, queries[:64], keys[:64], scale)  # what libraries set up on first use is nobody's memory
    before = _peak(device)
    gradient, best = torch.empty(0), float("inf")
    for _ in range(setting.repeats):
        dist.barrier()
        began = time.perf_counter()
        gradient = _gradient(loss, queries, keys, scale)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    cell = {"seconds": best, "megabytes": (_peak(device) - before) / 2**20, "gradient": gradient.cpu()}
    torch.save(cell, f"{folder}/cell{rank}")
    dist.barrier()
    dist.destroy_process_group()


def _ours(chunk: int) -> LossFunction:
    return lambda queries, keys, scale: frozen_key_info_nce(queries, keys, scale, chunk=chunk)


def _clip_loss(rank: int, ranks: int) -> LossFunction:
    loss = ClipLoss(local_loss=ranks > 1, gather_with_grad=ranks > 1, rank=rank, world_size=ranks)
    return lambda queries, keys, scale: loss(queries, keys, scale)


def _gradient(loss: LossFunction, queries: Tensor, keys: Tensor, scale: Tensor) -> Tensor:
    queries = queries.detach().requires_grad_()
    gradient, _ = torch.autograd.grad(loss(queries, keys, scale), [queries, scale])
    return gradient


def _peak(device: torch.device) -> int:
    """The most bytes this process ever had: on the GPU, what torch allocated; else, resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _machine(options: argparse.Namespace) -> str:
    if options.device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{platform.machine()} CPU, {options.threads} thread(s) per rank, torch {torch.__version__}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    loss = commands.add_parser("loss", help="the contrastive loss against open_clip's ClipLoss")
    loss.add_argument("--batches", type=int, nargs="+", default=[1024, 2048, 4096, 8192], help="of all ranks together")
    loss.add_argument("--ranks", type=int, default=1)
    loss.add_argument("--chunk", type=int, default=1024, help="rows of logits that ours holds at a time")
    loss.set_defaults(measure=loss_table)
    for command in (loss,):
        command.add_argument("--threads", type=int, default=torch.get_num_threads())
        command.add_argument("--repeats", type=int, default=3)
        command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
        command.add_argument("--markdown", type=Path, help="also write the table to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
