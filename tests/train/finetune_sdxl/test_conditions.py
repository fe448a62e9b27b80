"""Conditions of finetuning: told apart without a face, and, kept in memory, the same training and resumable."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from faceclip import FaceCLIPEncoder
from train.cache import command as cache
from train.data.shards import Sample, ShardSource, write_shard
from train.finetune_sdxl import conditions as remembered
from train.finetune_sdxl.command import build, main
from train.finetune_sdxl.conditions import JointConditions
from train.finetune_sdxl.config import FinetuneConfig
from train.run.command_line import parse
from train.run.ranks import Ranks

ENCODER = Path(__file__).resolve().parents[3] / "models" / "faceclip" / "faceclip_mini_encoder.safetensors"
ONE = Ranks(0, 1, torch.device("cpu"))
DROPPED = {"drop_text": 0.3, "drop_face": 0.3, "drop_both": 0.2}
Arguments = Callable[..., list[str]]


@pytest.fixture
def arguments(finetune_command: Arguments, tmp_path: Path) -> Arguments:
    """`arguments(out="run", steps=4, ...)` -> the command line of a run that
    drops most conditions, below the test's folder."""
    return lambda out="run", **options: finetune_command(tmp_path / out, **DROPPED, **options)


def steps_of(arguments: list[str], count: int) -> tuple[list[float], list[torch.Tensor], Any]:
    """Losses and gradients of the first steps, without training in between, and the task."""
    task = build(parse(FinetuneConfig, arguments), Ranks(0, 1, torch.device("cpu")))
    losses, gradients = [], []
    for step in range(count):
        losses.append(task.backward(task.batch(step), step)["loss"])
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in task.parameters]))
        for parameter in task.parameters:
            parameter.grad = None
    return losses, gradients, task


def test_training_is_the_same_and_the_encoder_runs_once_for_each_block_of_rows_and_dropout(
    arguments: Arguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 12  # some epochs of the shards
    plain_losses, plain_gradients, _ = steps_of(arguments(steps=count), count)
    calls: list[int] = []
    joint = FaceCLIPEncoder.joint
    monkeypatch.setattr(FaceCLIPEncoder, "joint", lambda self, ids, *rest: calls.append(len(ids)) or joint(self, ids, *rest))
    monkeypatch.setattr(remembered, "BLOCK", 2)
    losses, gradients, task = steps_of(arguments("remembering", steps=count, remember_conditions=True), count)
    assert losses == pytest.approx(plain_losses, rel=1e-4)
    for found, expected in zip(gradients, plain_gradients, strict=True):
        assert (found - expected).norm() < 1e-3 * expected.norm()
    batches = [task.batch(step)["rows"] for step in range(count)]
    drawn = [each for rows in batches for each in zip(rows.index, rows.draws, strict=True)]
    used = [(0 if d.drop_text and d.drop_face else row // 2, d.drop_text, d.drop_face) for row, d in drawn]
    assert len(calls) == len(set(used)) and set(calls) == {2}
    assert len(set(used)) < len(used) and {key[1:] for key in used} == {(a, b) for a in (False, True) for b in (False, True)}


def test_rows_of_caches_are_read_once(
    arguments: Arguments, shards: Path, vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents, features = tmp_path / "latents", tmp_path / "features"
    cached = ["--data", str(shards), "--out"]
    assert cache.main(["latents", *cached, str(latents), "--vae", str(vae), "--resolution", "128"]) == 0
    assert cache.main(["pretrain", *cached, str(features), "--size", "mini", "--encoder", str(ENCODER)]) == 0
    read: list[int] = []
    one = ShardSource.__getitem__
    monkeypatch.setattr(ShardSource, "__getitem__", lambda self, row: read.append(row) or one(self, row))
    _, _, task = steps_of(arguments(steps=12, remember_conditions=True, vae=None, latents=latents, features=features), 12)
    rows = set(read)
    assert len(rows) <= len(read) < 4 * len(rows)  # steps that are read ahead may both miss a row; 24 rows are dealt five times
    first = len(read)
    for step in range(12, 24):
        task.batch(step)
    assert len(read) == first


def test_a_resumed_run_that_has_forgotten_repeats_every_bit(arguments: Arguments, tmp_path: Path) -> None:
    options = {"steps": 4, "remember_conditions": True}
    assert main(arguments("whole", **options)) == 0
    checkpoint = Path("checkpoints") / "step-00000002"
    shutil.copytree(tmp_path / "whole" / checkpoint, tmp_path / "halves" / checkpoint)
    assert main(arguments("halves", **options)) == 0
    whole, halves = (load_file(tmp_path / n / "unet" / "diffusion_pytorch_model.safetensors") for n in ("whole", "halves"))
    assert all(torch.equal(halves[name], tensor) for name, tensor in whole.items())


def jpeg(seed: int, side: int) -> bytes:
    """A square picture of a few soft blobs."""
    small = Image.fromarray(np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8))
    file = io.BytesIO()
    small.resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def half_faceless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 photographs of one shape, every second one without a face."""
    samples = [Sample(f"row{i}", jpeg(i, 128), jpeg(i, 448) if i % 2 else None, f"a cat, number {i}", {}) for i in range(8)]
    folder = tmp_path_factory.mktemp("half_faceless")
    write_shard(folder / "000.tar", samples)
    return folder


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_rows_without_a_face_are_conditioned_as_such_from_a_cache_too(
    dtype: str, finetune_command: Arguments, half_faceless: Path, tmp_path: Path
) -> None:
    features = tmp_path / "features"
    given = ["--data", str(half_faceless), "--out", str(features), "--encoder", str(ENCODER), "--threads", "1"]
    assert cache.main(["pretrain", *given]) == 0
    undropped = {"drop_text": 0.0, "drop_face": 0.0, "drop_both": 0.0}
    for name, cached in (("live", None), ("cached", features)):
        options = {"data": half_faceless, "batch_size": 8, "dtype": dtype, "features": cached, **undropped}
        task = build(parse(FinetuneConfig, finetune_command(tmp_path / name, steps=1, **options)), ONE)
        rows = task.batch(0)["rows"]
        faces = [int(key.removeprefix("row")) % 2 == 1 for key in rows.key]
        assert 0 < sum(faces) < 8 and rows.has_face.tolist() == faces
        conditions = task.conditions
        assert isinstance(conditions, JointConditions)
        identity = conditions.identities(rows)
        assert identity.present.tolist() == faces
        blank = conditions.encoder.blank_face()
        same = [torch.equal(token, blank.class_token[0].to(token)) for token in identity.class_token]
        assert same == [not face for face in faces]
        without = rows.has_face.logical_not()
        unprefixed = conditions.encoder.encode([c for c, face in zip(rows.caption, faces, strict=True) if not face])
        torch.testing.assert_close(conditions(rows)[0][without], unprefixed.embeddings, rtol=2e-2, atol=2e-2)
