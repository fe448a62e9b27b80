"""How much of the device pretraining uses: samples/s, FLOP, MFU and memory over batches and micro-batches.

Features and token ids come from memory, so only the trained path counts: encoder, heads, losses, optimiser.
(In a run, reading threads tokenize ahead.)
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from training_common import Step, machine, matmul_peak, megabytes, spread, table, take_turns

from faceclip import FaceCLIPConfig
from train.data.captions import caption_ids
from train.frozen.faces import with_blank
from train.frozen.towers import new_encoder
from train.pretrain.config import PretrainConfig
from train.pretrain.features import Features
from train.pretrain.flops import pretraining_flops
from train.pretrain.task import PretrainTask
from train.run.config import DTYPES
from train.run.loop import train_step
from train.run.ranks import Ranks

GUIDED = 10  # every tenth row shows no face


def measure(options: argparse.Namespace) -> str:
    """One row for each batch and micro-batch that goes with it."""
    peak = matmul_peak(options.device, DTYPES[options.dtype], options.now)
    rows = []
    for batch, micro in itertools.product(options.batches, options.micro_batches):
        if micro < batch:
            rows.append(_row(_config(options, batch, micro), options, peak))
    head = [
        "batch (micro-batch)",
        "s/step",
        "samples/s",
        "GFLOP/sample",
        "TFLOP/s",
        "MFU of matmul",
        "of it executed",
        "MFU of peak",
        "MB",
    ]
    kept = f"checkpointing {'on' if options.checkpointing else 'off'}, compile {'on' if options.compile else 'off'}"
    title = (
        f"Pretraining FaceCLIP-{options.branch} at size {options.size}, {options.dtype}, {kept}, {options.rounds} rounds of "
        f"{options.steps} steps, {machine(options)}"
    )
    return table(title, head, rows, peak_note(peak, options))


def peak_note(peak: float, options: argparse.Namespace) -> str:
    named = f"{options.peak:g} TFLOP/s" if options.peak else "not named (--peak TFLOPS)"
    return (
        f"MFU counts one forward and one backward pass. A large {options.dtype} matrix product reached {peak / 1e12:.3f} TFLOP/s "
        f"in this run; the device's peak: {named}."
    )


def _row(config: PretrainConfig, options: argparse.Namespace, peak: float) -> list[str]:
    micro = config.micro_batch or config.batch_size
    name = f"{config.batch_size} ({micro})"
    build = lambda: _step(config, Ranks(0, 1, options.device))  # noqa: E731
    timing = take_turns({name: build}, options.device, options.rounds, options.steps, warm_up=2, now=options.now)[name]
    if timing is None:
        return [name, "out of memory", *["-"] * 7]
    flops = pretraining_flops(FaceCLIPConfig.preset(config.size).only(config.branch))
    rate = config.batch_size / timing.median
    executed = flops.executed(passes=2 if micro < config.batch_size else 1)
    return [
        name,
        spread(timing.seconds, 3),
        f"{rate:.1f}",
        f"{flops.model / 1e9:.2f}",
        f"{rate * flops.model / 1e12:.3f}",
        f"{rate * flops.model / peak:.2f}",
        f"{rate * executed / peak:.2f}",
        f"{rate * flops.model / options.peak / 1e12:.2f}" if options.peak else "-",
        megabytes(timing.megabytes),
    ]


def _config(options: argparse.Namespace, batch: int, micro: int) -> PretrainConfig:
    return PretrainConfig(
        out=Path(),
        steps=1,
        batch_size=batch,
        micro_batch=micro,
        data="",
        branch=options.branch,
        size=options.size,
        teacher="mini",  # none is built: the features are there
        dtype=options.dtype,
        activation_checkpointing=options.checkpointing,
        compile=options.compile,
    )


def _step(config: PretrainConfig, ranks: Ranks) -> Step:
    with ranks.device:
        encoder = new_encoder(config, config.dropout)
    data: Any = Rows(config.batch_size)
    task = PretrainTask(config, ranks, encoder, data, RandomFeatures(config, encoder))
    return lambda step: train_step(task, config, ranks, step)


class Rows:
    """As `TrainingData`, with made-up captions, the same at every step."""

    def __init__(self, batch: int):
        self._batch, self._step = batch, 0
        self._captions = [f"a photograph of a person in a street at dusk, number {i}" for i in range(batch)]
        self._ids = torch.stack([caption_ids(caption) for caption in self._captions])

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self._step = state["step"]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for step in itertools.count(self._step):
            index = torch.arange(step * self._batch, (step + 1) * self._batch)
            yield {
                "key": [str(i) for i in index.tolist()],
                "caption": self._captions,
                "ids": self._ids,
                "identity": index,
                "has_face": index % GUIDED > 0,
                "index": index,
            }


class RandomFeatures:
    """Features of one batch, random, on the device; every step has the same."""

    def __init__(self, config: PretrainConfig, encoder: Any):
        (branch,) = encoder.config.branches.values()
        rows, dtype = config.batch_size, DTYPES[config.dtype]
        face, device = branch.face, encoder.device
        shapes = ((rows, branch.width), (rows, 1, face.classes), (rows, 1, face.grid**2, face.width), (rows, branch.width))
        self._encoder = encoder
        self._image, self._class, self._patches, self._text = (torch.randn(s, device=device, dtype=dtype) for s in shapes)

    def __call__(self, batch: Mapping[str, Any]) -> Features:
        rows = len(batch["key"])  # of a micro-batch
        identity = with_blank(self._class[:rows], self._patches[:rows], batch["has_face"], self._encoder)
        return Features(self._image[:rows], identity.class_token, identity.patch_tokens, self._text[:rows])
