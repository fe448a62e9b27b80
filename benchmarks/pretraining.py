"""Pretraining's speed, whole steps: what the cache of frozen features buys, and what our loop costs beside a plain one.

    python benchmarks/pretraining.py cache [--size mini] [--batch 16] [--steps 10]
    python benchmarks/pretraining.py step  [--size mini] [--batch 16] [--steps 10]

`cache`: samples per second with and without cached features, from the same synthetic shards. `step`: our step against a loop that
does the same by hand, with torch's AdamW and open_clip's loss three times, on the same cached features; steps alternate,
and the median of their ratios counts. Weights are random: time does not depend on them.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss
from PIL import Image

from train import cache
from train.config import PretrainConfig
from train.distributed import distributed
from train.loop import train_step
from train.pretrain import build
from train.pretrain_data import token_ids
from train.pretrain_step import PretrainTask
from train.shards import Sample, write_shard


def main() -> None:
    options = _arguments()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder, distributed() as ranks:
        config = _prepare(Path(folder), options)
        options.measure(config, ranks, options)


def measure_cache(config: PretrainConfig, ranks: Any, options: argparse.Namespace) -> None:
    """Print samples per second of both ways."""
    rates = {}
    for name, kind in (("uncached", dataclasses.replace(config, features=None)), ("cached", config)):
        task = build(kind, ranks)
        seconds = [_seconds(lambda step=step: train_step(task, kind, ranks, step)) for step in range(options.steps + 1)][1:]  # noqa: B023
        rates[name] = config.batch_size / statistics.median(seconds)
        print(f"{name}: {rates[name]:.2f} samples/s ({options.size}, batch {config.batch_size}, {ranks.device})", flush=True)
    print(f"cached / uncached: {rates['cached'] / rates['uncached']:.2f}")


def measure_step(config: PretrainConfig, ranks: Any, options: argparse.Namespace) -> None:
    """Print the median step of both loops and the ratio."""
    ours, plain = build(config, ranks), build(config, ranks)
    optimizer = torch.optim.AdamW(plain.parameters, lr=config.lr, weight_decay=config.weight_decay)
    clip_loss = ClipLoss()
    times = []
    for step in range(options.steps + 1):
        mine = _seconds(lambda step=step: train_step(ours, config, ranks, step))
        theirs = _seconds(lambda step=step: _plain_step(plain, optimizer, clip_loss, step))
        times.append((mine, theirs))
    times = times[1:]
    print(f"our step {statistics.median(t[0] for t in times):.3f} s, plain loop {statistics.median(t[1] for t in times):.3f} s")
    print(f"ratio {statistics.median(a / b for a, b in times):.3f} ({options.size}, batch {config.batch_size}, {ranks.device})")


def _plain_step(task: PretrainTask, optimizer: torch.optim.Optimizer, clip_loss: ClipLoss, step: int) -> None:
    """What one would write by hand for one GPU: equation 3 without masks."""
    batch = task.batch(step)
    features, device = task.features(batch), task.ranks.device
    ids = token_ids(batch["caption"], batch["has_face"].tolist()).to(device)
    task.model.train()
    text_like, identity_like = task.model(ids, features.class_token, features.patch_tokens, batch["has_face"].to(device))
    pairs = ((text_like, features.image), (identity_like, features.class_token[:, 0]), (text_like, features.text))
    scales = [scale.exp() for scale in task.loss.log_scale.values()]
    losses = [
        clip_loss(F.normalize(a, dim=-1), F.normalize(b, dim=-1), scale)
        for (a, b), scale in zip(pairs, scales, strict=True)
        if b is not None
    ]
    loss = torch.stack(losses).sum()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(task.parameters, task.config.clip_grad)
    optimizer.step()
    float(loss.detach())


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _prepare(folder: Path, options: argparse.Namespace) -> PretrainConfig:
    """Synthetic shards, their cached features, and a run over them."""
    random = np.random.default_rng(0)
    rows = 2 * options.batch
    samples = [Sample(f"{i:05d}", _jpeg(random, 512), _jpeg(random, 448), f"a person, number {i}") for i in range(rows)]
    write_shard(folder / "shards" / "000.tar", samples)
    teacher = "mini" if options.size == "mini" else "ViT-L-14-quickgelu"
    weights = [] if options.size == "mini" else ["--init-clip", str(_random_clip(folder, teacher))]
    flags = ["--data", str(folder / "shards"), "--teacher", teacher, "--size", options.size, *weights]
    if cache.main(["pretrain", *flags, "--out", str(folder / "features"), "--captions", "--threads", "2", "--batch-size", "8"]):
        raise SystemExit(1)
    (folder / "run").mkdir()
    return PretrainConfig(
        out=folder / "run",
        steps=options.steps,
        batch_size=options.batch,
        data=str(folder / "shards"),
        size=options.size,
        teacher=teacher,
        init_clip=weights[1] if weights else "",
        features=folder / "features",
        dtype=options.dtype,
    )


def _random_clip(folder: Path, name: str) -> Path:
    """A CLIP checkpoint of random weights, since the teacher wants a file."""
    import open_clip
    from safetensors.torch import save_file

    path = folder / "clip.safetensors"
    save_file({n: t.contiguous() for n, t in open_clip.create_model(name).state_dict().items()}, path)
    return path


def _jpeg(random: np.random.Generator, side: int) -> bytes:
    file = io.BytesIO()
    small = Image.fromarray(random.integers(0, 255, (16, 16, 3), dtype=np.uint8))
    small.resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
    return file.getvalue()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, measure in (("cache", measure_cache), ("step", measure_step)):
        command = commands.add_parser(name)
        command.add_argument("--size", choices=("mini", "sdxl"), default="mini", help="sdxl is FaceCLIP-L at full size")
        command.add_argument("--batch", type=int, default=16)
        command.add_argument("--steps", type=int, default=10)
        command.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
        command.add_argument("--threads", type=int, default=torch.get_num_threads())
        command.set_defaults(measure=measure)
    return parser.parse_args()


if __name__ == "__main__":
    main()
