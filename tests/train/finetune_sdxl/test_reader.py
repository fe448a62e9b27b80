"""Rows that finetuning is given: latents as SDXL's UNet wants them,
samples named when they cannot be used, read side by side."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from train.cache import command as cache
from train.cache.row_store import CacheError
from train.data.batches import DataError
from train.data.shards import Sample, ShardSource, write_shard
from train.finetune_sdxl.command import _latents
from train.finetune_sdxl.config import FinetuneConfig
from train.finetune_sdxl.latents import LiveLatents
from train.finetune_sdxl.reader import RowReader
from train.finetune_sdxl.task import FinetuneTask
from train.frozen.vae import load_vae
from train.run.gradient_sum import GradientSum
from train.run.ranks import Ranks

ONE = Ranks(0, 1, torch.device("cpu"))


def jpeg(seed: int, side: int) -> bytes:
    """A square picture of a few soft blobs."""
    small = Image.fromarray(np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8))
    file = io.BytesIO()
    small.resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def config(data: Path, **options: Any) -> FinetuneConfig:
    files = {"out": data, "encoder": data, "unet": data, "data": str(data)}
    return FinetuneConfig(**{"steps": 1, "batch_size": 4, "resolution": 128, **files, **options})


def reader(data: Path, vae: Path, **options: Any) -> RowReader:
    chosen = config(data, vae=vae, **options)
    source = ShardSource(data)
    return RowReader(chosen, ONE, source, LiveLatents(source, load_vae(vae, torch.float32), 128, ONE.device), faces=True)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"face": jpeg(1, 200)}, "its face is 200 x 200 px where 448 x 448 is expected"),
        ({"face": jpeg(1, 448)[:900]}, "its face is not a picture, or is cut short"),
        ({"image": jpeg(1, 128)[:-200]}, "its photograph is not a picture, or is cut short"),
        ({"caption": "  "}, "its caption is missing. Add one"),
    ],
    ids=["small face", "cut face", "cut photograph", "no caption"],
)
def test_a_sample_that_cannot_be_used_is_named(broken: dict[str, Any], message: str, tmp_path: Path, vae: Path) -> None:
    good = {"image": jpeg(0, 128), "face": jpeg(0, 448), "caption": "a cat"}
    samples = [Sample(f"row{i}", **({**good, **broken} if i == 2 else good)) for i in range(4)]
    write_shard(tmp_path / "000.tar", samples)
    with pytest.raises(DataError, match=f"The sample 'row2' \\(row 2\\) cannot be used: {message}"):
        reader(tmp_path, vae)(0)


def test_as_many_rows_are_read_at_a_time_as_there_are_workers(shards: Path, vae: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = reader(shards, vae, workers=1)
    expected = [alone(step) for step in range(3)]
    together = threading.Barrier(4)
    read = LiveLatents.read

    def wait_for_the_others(self: LiveLatents, row: int, sample: Sample) -> Any:
        together.wait(timeout=60)  # broken unless four are here at once
        return read(self, row, sample)

    monkeypatch.setattr(LiveLatents, "read", wait_for_the_others)
    four = reader(shards, vae, workers=4)
    for step, rows in enumerate(expected):
        found = four(step)
        assert (found.key, found.caption) == (rows.key, rows.caption)
        assert torch.equal(found.pictures, rows.pictures) and torch.equal(found.time_ids, rows.time_ids)
        assert found.faces is not None and rows.faces is not None and torch.equal(found.faces, rows.faces)


@pytest.mark.parametrize("cached", [False, True], ids=["live", "cached"])
def test_latents_are_the_vaes_posterior_times_sdxls_factor(cached: bool, shards: Path, vae: Path, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    chosen = config(shards, vae=vae)
    if cached:
        given = ["--data", str(shards), "--threads", "1", "--vae", str(vae), "--resolution", "128"]
        assert cache.main(["latents", *given, "--out", str(tmp_path / "latents")]) == 0
        chosen = config(shards, latents=tmp_path / "latents")
    source = ShardSource(shards)
    ((_, latents),) = _latents(chosen, ONE, source)
    rows = RowReader(chosen, ONE, source, latents, faces=False)(0)
    found = latents.encode(rows.pictures, rows.draws)
    pictures = RowReader(chosen, ONE, source, LiveLatents(source, load_vae(vae, torch.float32), 128, ONE.device), faces=False)(0)
    with torch.no_grad():
        posterior = AutoencoderKL.from_pretrained(vae).encode(pictures.pictures / 127.5 - 1).latent_dist
    noise = (found / 0.13025 - posterior.mean) / posterior.std  # what was drawn, row by row
    drawn = torch.cat([torch.randn(1, *found.shape[1:], generator=draw.generator()) for draw in rows.draws])
    torch.testing.assert_close(noise, drawn, rtol=0, atol=0.05 if cached else 1e-3)  # cached in fp16
    again = torch.cat([torch.randn(1, *found.shape[1:], generator=draw.generator()) for draw in rows.draws])
    assert torch.equal(again, drawn) and (noise[0] - noise[1]).abs().mean() > 0.5


def test_cached_latents_of_another_resolution_are_refused(shards: Path, vae: Path, tmp_path: Path) -> None:
    given = ["--data", str(shards), "--threads", "1", "--vae", str(vae), "--resolution", "64", "--bucket-step", "32"]
    assert cache.main(["latents", *given, "--out", str(tmp_path / "latents")]) == 0
    _latents(config(shards, latents=tmp_path / "latents", resolution=64), ONE, ShardSource(shards))
    with pytest.raises(
        CacheError, match=r"made for --resolution 64, the run's is 128. Give --resolution 64, or cache them again"
    ):
        _latents(config(shards, latents=tmp_path / "latents", resolution=128), ONE, ShardSource(shards))


@pytest.mark.parametrize(
    ("losses", "elsewhere", "named"),
    [
        ([1.0, float("nan"), 2.0], False, ["b"]),
        ([1.0, 1.0, 2.0], True, ["none of its rows"]),
        ([1.0, 1.0, 2.0], False, ["a", "b", "c"]),
    ],
    ids=["here", "on another rank", "in the gradient alone"],
)
def test_the_rows_that_broke_a_step_are_named_and_no_others(losses: list[float], elsewhere: bool, named: list[str]) -> None:
    ranks = SimpleNamespace(any=lambda flag: [flag or elsewhere])
    task: Any = SimpleNamespace(_row_losses=losses, ranks=ranks)
    assert FinetuneTask.suspects(task, {"rows": SimpleNamespace(key=["a", "b", "c"])}) == named


def test_gradients_of_many_micro_batches_are_summed_without_bf16s_losses() -> None:
    random = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.zeros(1000, dtype=dtype)) for dtype in (torch.bfloat16, torch.float32)]
    unused = torch.nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))
    gathered = GradientSum([*weights, unused])
    gradients = [(1 + torch.randn(1000, generator=random)).bfloat16() for _ in range(64)]
    for number, gradient in enumerate(gradients):
        if number == 63:
            gathered.give()
        for weight in weights:  # as autograd adds up
            added = gradient.to(weight.dtype)
            weight.grad = added.clone() if weight.grad is None else weight.grad + added
        if number < 63:
            gathered.take()
    exact = torch.stack(gradients).float().sum(0)
    grads = [weight.grad for weight in weights]
    assert grads[0] is not None and grads[0].dtype == torch.bfloat16 and grads[1] is not None and unused.grad is None
    assert (grads[0].float() - exact).norm() < 2.5e-3 * exact.norm()
    torch.testing.assert_close(grads[1], exact, rtol=1e-5, atol=1e-5)
    plain = torch.zeros(1000, dtype=torch.bfloat16)
    for gradient in gradients:
        plain += gradient
    assert (plain.float() - exact).norm() > 5e-3 * exact.norm()  # what it avoids
