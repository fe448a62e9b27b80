"""Caches of latents: of the same pixels as their conditions, resumable, and never of anything but numbers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from train.cache.command import LatentConfig, latent_precision, main
from train.cache.latents import LatentCache, cache_latents
from train.cache.row_store import CacheError
from train.data.decode import decode
from train.data.framing import aspect_buckets, cut, frame
from train.data.shards import ShardSource


class InterruptedByTestError(Exception):
    pass


BUCKETS = aspect_buckets(64, step=16)


def averages(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A stand-in for a VAE whose latents show the pixels they were made from."""
    mean = torch.nn.functional.avg_pool2d(pixels, 8)
    return mean, torch.full_like(mean, 0.5)


def test_latents_and_conditions_are_of_the_same_pixels(source: ShardSource, tmp_path: Path) -> None:
    cache_latents(source, tmp_path / "l", averages, BUCKETS, {"scaling_factor": 0.13}, batch_size=2)
    cache = LatentCache(tmp_path / "l", source)
    assert cache.scaling_factor == 0.13 and cache.buckets == BUCKETS and len(cache) == 11
    assert len(set(cache.bucket_of.tolist())) > 1
    for row in range(11):
        latents, framing = cache.read(torch.tensor([row])), cache.framing(row)
        shown = decode(source[row].image, "photograph")
        assert framing == frame((shown.height, shown.width), BUCKETS)
        assert tuple(latents.condition[0].tolist()) == framing.condition
        assert cache.buckets[cache.bucket_of[row]] == framing.target
        pixels = torch.from_numpy(cut(shown, framing)).float().unsqueeze(0) / 127.5 - 1
        torch.testing.assert_close(latents.mean.float(), averages(pixels)[0], rtol=1e-3, atol=1e-3)
        assert latents.mean.shape[2:] == (framing.target[0] // 8, framing.target[1] // 8)


def test_a_batch_of_latents_is_of_one_bucket_and_drawn_anew(source: ShardSource, tmp_path: Path) -> None:
    cache_latents(source, tmp_path / "l", averages, BUCKETS, {"scaling_factor": 0.13}, batch_size=3)
    cache = LatentCache(tmp_path / "l", source)
    squares = torch.from_numpy(np.flatnonzero(cache.bucket_of == BUCKETS.index((64, 64))))
    assert len(squares) >= 4
    latents = cache.read(squares)
    generator = torch.Generator().manual_seed(0)
    first, second = latents.sample(generator), latents.sample(generator)
    assert first.shape == latents.mean.shape and not torch.equal(first, second)
    assert abs(float((first - latents.mean.float()).std()) - 0.5) < 0.05
    with pytest.raises(CacheError, match="must be of one bucket; these rows are of \\["):
        cache.read(torch.arange(11))


def test_an_interrupted_latent_cache_goes_on(source: ShardSource, tmp_path: Path) -> None:
    calls: list[int] = []

    def fails_later(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(len(pixels))
        if len(calls) == 4:
            raise InterruptedByTestError
        return averages(pixels)

    with pytest.raises(InterruptedByTestError):
        cache_latents(source, tmp_path / "l", fails_later, BUCKETS, {"scaling_factor": 1.0}, batch_size=2)
    before = sum(calls[1:3])
    calls.clear()
    calls.extend([0] * 9)  # past the failure
    for part in range(2):
        cache_latents(source, tmp_path / "l", fails_later, BUCKETS, {"scaling_factor": 1.0}, batch_size=2, part=(part, 2))
    assert sum(calls) - 2 == 11 - before  # less the two probes
    cache_latents(source, tmp_path / "whole", averages, BUCKETS, {"scaling_factor": 1.0}, batch_size=2)
    pieces, whole = LatentCache(tmp_path / "l", source), LatentCache(tmp_path / "whole", source)
    for row in range(11):
        assert torch.equal(pieces.read(torch.tensor([row])).mean, whole.read(torch.tensor([row])).mean)


def test_a_latent_that_is_not_finite_is_named_not_zeroed(source: ShardSource, tmp_path: Path) -> None:
    def overflows(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = averages(pixels)
        return mean * 1e6, std

    with pytest.raises(CacheError, match="The latent of sample 'k\\d+' is not finite"):
        cache_latents(source, tmp_path / "l", overflows, BUCKETS, {"scaling_factor": 1.0})


def test_latents_by_the_command_with_a_real_vae(shards: Path, source: ShardSource, tmp_path: Path) -> None:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(0)
    blocks = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "sample_size": 64}
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = AutoencoderKL(latent_channels=4, scaling_factor=0.2, **blocks, **kinds).eval()  # type: ignore[arg-type]
    vae.save_pretrained(tmp_path / "vae")
    flags = ["--vae", str(tmp_path / "vae"), "--resolution", "64", "--bucket-step", "16"]
    assert main(["latents", "--data", str(shards), "--out", str(tmp_path / "l"), *flags]) == 0
    cache = LatentCache(tmp_path / "l", source)
    pixels = torch.from_numpy(cut(decode(source[3].image, ""), cache.framing(3))).float().unsqueeze(0) / 127.5 - 1
    with torch.no_grad():
        expected: Any = vae.encode(pixels)
    torch.testing.assert_close(cache.read(torch.tensor([3])).mean.float(), expected.latent_dist.mean, rtol=2e-3, atol=2e-3)
    assert cache.scaling_factor == 0.2


def test_latents_of_the_tiny_vae_have_no_spread(shards: Path, source: ShardSource, tmp_path: Path) -> None:
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    sizes = {"encoder_block_out_channels": (4,) * 4, "decoder_block_out_channels": (4,) * 4, "num_encoder_blocks": (1,) * 4}
    vae: Any = AutoencoderTiny(**sizes).eval()  # type: ignore[arg-type]
    vae.save_pretrained(tmp_path / "vae")
    flags = ["--vae", str(tmp_path / "vae"), "--resolution", "64", "--bucket-step", "16"]
    assert main(["latents", "--data", str(shards), "--out", str(tmp_path / "l"), *flags]) == 0
    cache = LatentCache(tmp_path / "l", source)
    latents = cache.read(torch.tensor([3]))
    pixels = torch.from_numpy(cut(decode(source[3].image, ""), cache.framing(3))).float().unsqueeze(0) / 127.5 - 1
    torch.testing.assert_close(latents.mean.float(), vae.encode(pixels).latents.detach(), rtol=2e-3, atol=2e-3)
    assert not latents.std.any()


def test_places_where_no_latents_are_are_found_before_training(source: ShardSource, tmp_path: Path) -> None:
    cache_latents(source, tmp_path / "l", averages, BUCKETS, {"scaling_factor": 0.13}, batch_size=2)
    whole = np.load(tmp_path / "l" / "places.npy")
    for column, number in ((0, 99), (0, -1), (1, 11), (1, -1)):  # its bucket, its row there
        places = whole.copy()
        places[4, column] = number
        np.save(tmp_path / "l" / "places.npy", places)
        with pytest.raises(CacheError, match=r"damaged: places\.npy places photographs where no latents are"):
            LatentCache(tmp_path / "l", source)
    np.save(tmp_path / "l" / "places.npy", whole)
    description = json.loads((tmp_path / "l" / "cache.json").read_text())
    for change in (
        {"buckets": 5},
        {"buckets": [[64]]},
        {"buckets": [[math.inf, 64]]},
        {"made_by": {}},
        *({"made_by": {"scaling_factor": factor}} for factor in ("much", 0, -1, math.nan, math.inf)),
        {"columns": {}},
    ):
        (tmp_path / "l" / "cache.json").write_text(json.dumps({**description, **change}))
        with pytest.raises(CacheError, match="is damaged"):
            LatentCache(tmp_path / "l", source)


@pytest.mark.parametrize("url", ["s3://bucket/cache", "file:///tmp/cache", "memory://cache"])
def test_a_cache_on_a_url_is_refused_with_the_reason(source: ShardSource, url: str) -> None:
    with pytest.raises(CacheError, match="is a URL, and a cache has to be a folder: its arrays are mapped into memory"):
        cache_latents(source, Path(url), averages, BUCKETS, {"scaling_factor": 0.13})
    with pytest.raises(CacheError, match="is a URL"):
        LatentCache(url, source)


def test_the_vaes_precision_is_the_devices_unless_a_cache_was_begun(source: ShardSource, tmp_path: Path) -> None:
    config = LatentConfig(data="", out=tmp_path / "l", vae=tmp_path)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert (latent_precision(config, cpu), latent_precision(config, gpu)) == ("fp32", "bf16")
    cache_latents(source, config.out, averages, BUCKETS, {"scaling_factor": 0.13, "dtype": "fp32"})
    assert latent_precision(config, gpu) == "fp32"
    assert latent_precision(replace(config, dtype="bf16"), gpu) == "bf16"


def test_the_command_takes_the_shipped_vae_file(shards: Path, source: ShardSource, tmp_path: Path) -> None:
    vae = Path(__file__).parents[3] / "models" / "vae" / "zz_faceclip_mini_vae.safetensors"
    options = ["--resolution", "64", "--bucket-step", "16", "--threads", "1"]
    assert main(["latents", "--data", str(shards), "--out", str(tmp_path / "l"), "--vae", str(vae), *options]) == 0
    cache = LatentCache(tmp_path / "l", source)
    assert cache.scaling_factor == 1 and cache.made_by["dtype"] == "fp32"
    assert cache.read(torch.tensor([0])).mean.shape[1] == 4
    assert main(["latents", "--data", str(shards), "--out", "s3://bucket/l", "--vae", str(vae), *options]) == 1
