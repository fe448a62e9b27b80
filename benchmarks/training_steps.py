"""Pretraining from shards, whole steps: what cached features buy, and what our step costs beside a plain loop."""

from __future__ import annotations

import argparse
import dataclasses
import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss
from PIL import Image
from training_common import machine, ratios, spread, table, take_steps_in_turn, take_turns

from train.cache import command as cache
from train.data.captions import token_ids
from train.data.shards import Sample, write_shard
from train.pretrain.command import build
from train.pretrain.config import PretrainConfig
from train.pretrain.task import PretrainTask
from train.run.loop import seed_step, train_step
from train.run.ranks import Ranks

TEACHERS = {"l": "ViT-L-14-quickgelu", "g": "ViT-bigG-14"}
AHEAD = 3  # steps after which a step waits for its data if reading is what limits it


def measure_cache(options: argparse.Namespace) -> str:
    """Samples per second with the frozen towers live and with their features cached, from the same shards."""
    ranks = Ranks(0, 1, options.device)
    with _prepared(options) as cached:
        kinds = {"live towers": dataclasses.replace(cached, features=None), "cached": cached}
        contenders = {name: lambda kind=kind: _our_step(build(kind, ranks), kind, ranks) for name, kind in kinds.items()}
        found = take_turns(contenders, options.device, options.rounds, options.steps, AHEAD, options.now)
    live = found["live towers"]
    rows = []
    for name, timing in found.items():
        if timing is None or live is None:
            rows.append([name, "out of memory" if timing is None else f"{timing.median:.3f}", "-", "-"])
            continue
        rate = [options.batch / seconds for seconds in timing.seconds]
        rows.append([name, f"{timing.median:.3f}", spread(rate), "1" if timing is live else spread(ratios(live, timing))])
    turns = f"{options.rounds} rounds of {options.steps} steps"
    return table(
        _title("Pretraining with and without cached features", options, turns), ["", "s/step", "samples/s", "gain"], rows
    )


def measure_step(options: argparse.Namespace) -> str:
    """Our step against the same by hand, on the same cached features.

    Raises ValueError if their first losses differ.
    """
    ranks = Ranks(0, 1, options.device)
    with _prepared(options) as config:
        plain = PlainLoop(build(config, ranks), config)
        ours = _our_step(build(config, ranks), config, ranks)
        _require_equal(ours(0), plain(0), config)
        found = take_steps_in_turn(
            {"ours": lambda i: ours(i + 1), "plain loop": lambda i: plain(i + 1)}, options.now, options.steps
        )
    rows = [[name, spread(timing.seconds, 3), spread(ratios(timing, found["plain loop"]), 3)] for name, timing in found.items()]
    return table(
        _title("Pretraining step on cached features", options, f"{options.steps} steps each, in turn"),
        ["", "s/step", "ratio"],
        rows,
    )


class PlainLoop:
    """What one would write by hand for one GPU: equation 3 without masks,
    torch's AdamW, open_clip's loss three times."""

    def __init__(self, task: PretrainTask, config: PretrainConfig):
        self.task, self.config = task, config
        self.optimizer = torch.optim.AdamW(task.parameters, lr=config.lr, weight_decay=config.weight_decay)
        self.clip_loss = ClipLoss()

    def __call__(self, step: int) -> float:
        """One step; returns its loss."""
        task, device = self.task, self.task.ranks.device
        batch = task.batch(step)
        seed_step(self.config.seed, step, 0)  # the same dropout as ours
        features = task.features(batch)
        ids = token_ids(batch["caption"], batch["has_face"].tolist()).to(device)
        task.model.train()
        text_like, identity_like = task.model(ids, features.class_token, features.patch_tokens, batch["has_face"].to(device))
        pairs = ((text_like, features.image), (identity_like, features.class_token[:, 0]), (text_like, features.text))
        scales = [scale.exp() for scale in task.loss.log_scale.values()]
        losses = [
            self.clip_loss(F.normalize(a, dim=-1), F.normalize(b, dim=-1), scale)
            for (a, b), scale in zip(pairs, scales, strict=True)
            if b is not None
        ]
        loss = torch.stack(losses).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters, self.config.clip_grad)
        self.optimizer.step()
        return float(loss.detach())


def _our_step(task: PretrainTask, config: PretrainConfig, ranks: Ranks):
    return lambda step: train_step(task, config, ranks, step)["loss"]


def _require_equal(ours: float, plain: float, config: PretrainConfig) -> None:
    tolerance = 1e-4 if config.dtype == "fp32" else 5e-2
    if abs(ours - plain) > tolerance * abs(plain):
        raise ValueError(f"Our first loss is {ours:.6f}, the plain loop's {plain:.6f}: times would mean nothing.")


def _title(what: str, options: argparse.Namespace, turns: str) -> str:
    return (
        f"{what}: FaceCLIP-{options.branch} at size {options.size}, batch {options.batch}, {options.dtype}, {turns}, "
        f"{machine(options)}"
    )


@contextmanager
def _prepared(options: argparse.Namespace) -> Iterator[PretrainConfig]:
    """Synthetic shards, their cached features, and a run over them, in a
    folder that is there as long as the context."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random = np.random.default_rng(0)
        samples = [
            Sample(f"{i:05d}", _jpeg(random, 512), _jpeg(random, 448), f"a person, number {i}") for i in range(4 * options.batch)
        ]
        write_shard(folder / "shards" / "000.tar", samples)
        teacher = "mini" if options.size == "mini" else TEACHERS[options.branch]
        weights = "" if options.size == "mini" else str(_random_clip(folder, teacher))
        flags = ["--data", str(folder / "shards"), "--teacher", teacher, "--size", options.size, "--branch", options.branch]
        flags += [
            "--out",
            str(folder / "features"),
            "--captions",
            "--init-clip",
            weights,
            "--init-face",
            "random",
            "--dtype",
            options.dtype,
        ]
        if cache.main(["pretrain", *flags, "--threads", "2", "--batch-size", "8"]):
            raise SystemExit(1)
        (folder / "run").mkdir()
        yield PretrainConfig(
            out=folder / "run",
            steps=options.steps,
            batch_size=options.batch,
            data=str(folder / "shards"),
            size=options.size,
            branch=options.branch,
            teacher=teacher,
            init_clip=weights,
            init_face=Path("random"),
            guided_fraction=0.0,
            features=folder / "features",
            dtype=options.dtype,
        )


def _random_clip(folder: Path, name: str) -> Path:
    """A CLIP checkpoint of random weights, since the teacher wants a file: time does not depend on them."""
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
