"""The contrastive loss, forward and backward, against open_clip's ClipLoss: time and memory at growing batch."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from open_clip.loss import ClipLoss
from torch import Tensor
from training_common import Clock, PeakMemory, Timing, machine, megabytes, ratios, spread, table

from train.pretrain.contrastive import frozen_key_info_nce

WIDTH = 768  # CLIP-L's
SCALE = 50.0
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Setting:
    """What a row of the table measures."""

    batch: int  # of all ranks
    ranks: int
    chunk: int
    device: torch.device
    now: Clock
    rounds: int
    threads: int


def measure(options: argparse.Namespace) -> str:
    """The comparison as a table. Raises ValueError when both losses' gradients differ."""
    rows = []
    for batch in options.batches:
        setting = Setting(batch, options.ranks, options.chunk, options.device, options.now, options.rounds, options.threads)
        found = _on_all_ranks(setting) if options.ranks > 1 else _on_one_rank(setting, 0)
        rows.append([str(batch), *_row(found["ours"], found["ClipLoss"])])
    title = (
        f"Contrastive loss, forward and backward, width {WIDTH}, fp32, chunk {options.chunk}, {options.ranks} rank(s), "
        f"{options.rounds} rounds, {machine(options)}"
    )
    return table(title, ["batch", "ours, s", "ClipLoss, s", "ratio", "ours, MB", "ClipLoss, MB", "ratio"], rows)


def _row(ours: Timing | None, theirs: Timing | None) -> list[str]:
    seconds = ["out of memory" if timing is None else f"{timing.median:.3f}" for timing in (ours, theirs)]
    memory = ["-" if timing is None else megabytes(timing.megabytes) for timing in (ours, theirs)]
    if ours is None or theirs is None:
        return [*seconds, "-", *memory, "-"]
    share = f"{ours.megabytes / theirs.megabytes:.2f}" if ours.megabytes and theirs.megabytes else "-"
    return [*seconds, spread(ratios(ours, theirs)), *memory, share]


def _on_all_ranks(setting: Setting) -> dict[str, Timing | None]:
    """Rank 0's times (all ranks wait for each other) and memory."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, (setting, folder), nprocs=setting.ranks)  # pyright: ignore[reportPrivateImportUsage]
        return torch.load(Path(folder) / "found", weights_only=False)


def _rank(rank: int, setting: Setting, folder: str) -> None:
    torch.set_num_threads(setting.threads)
    device = torch.device("cuda", rank) if setting.device.type == "cuda" else setting.device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{folder}/rendezvous", rank=rank, world_size=setting.ranks)
    found = _on_one_rank(Setting(**{**vars(setting), "device": device}), rank)
    if rank == 0:
        torch.save(found, f"{folder}/found")
    dist.barrier()
    dist.destroy_process_group()


def _on_one_rank(setting: Setting, rank: int) -> dict[str, Timing | None]:
    device, rows = setting.device, setting.batch // setting.ranks
    generator = torch.Generator().manual_seed(rank)
    queries, keys = (F.normalize(torch.randn(rows, WIDTH, generator=generator), dim=-1).to(device) for _ in range(2))
    scale = torch.tensor(SCALE, device=device, requires_grad=True)
    losses = {"ours": _ours(setting.chunk), "ClipLoss": _clip_loss(rank, setting.ranks)}
    found: dict[str, Timing | None] = {name: Timing() for name in losses}
    gradients: dict[str, Tensor] = {}
    for number in range(setting.rounds + 1):
        for name, loss in losses.items():
            timing = found[name]
            if timing is None:
                continue
            memory = PeakMemory(device)
            if setting.ranks > 1:
                dist.barrier()
            began = setting.now()
            try:
                gradients[name] = _gradient(loss, queries, keys, scale)
            except torch.OutOfMemoryError:
                found[name] = None
                continue
            if setting.ranks > 1:
                dist.barrier()
            if number:  # the first is to warm up
                timing.seconds.append(setting.now() - began)
                timing.megabytes = memory.larger(timing.megabytes)
        if number == 0 and len(gradients) == len(losses):
            _require_equal(gradients["ours"], gradients["ClipLoss"], setting.batch)
        gradients.clear()
    return found


def _require_equal(ours: Tensor, theirs: Tensor, batch: int) -> None:
    difference = ((ours - theirs).norm() / theirs.norm()).item()
    if difference > 1e-4:
        raise ValueError(f"The gradients differ by {difference:.1e} at batch {batch}: times would mean nothing.")


def _ours(chunk: int) -> Loss:
    return lambda queries, keys, scale: frozen_key_info_nce(queries, keys, scale, chunk=chunk)


def _clip_loss(rank: int, ranks: int) -> Loss:
    """Over several ranks in its sound and lean setting: local loss with gathered gradients."""
    loss = ClipLoss(local_loss=ranks > 1, gather_with_grad=ranks > 1, rank=rank, world_size=ranks)
    return lambda queries, keys, scale: loss(queries, keys, scale)


def _gradient(loss: Loss, queries: Tensor, keys: Tensor, scale: Tensor) -> Tensor:
    queries = queries.detach().requires_grad_()
    gradient, _ = torch.autograd.grad(loss(queries, keys, scale), [queries, scale])
    return gradient
