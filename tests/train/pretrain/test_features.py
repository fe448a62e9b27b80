"""Pretraining from cached features: the same training as with live
towers, and refused when other towers made them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from faceclip import FaceCLIPConfig
from train.cache import command as cache
from train.cache.row_store import CacheError
from train.frozen import teacher
from train.pretrain.command import build
from train.pretrain.config import PretrainConfig
from train.run.command_line import parse
from train.run.config import ConfigError
from train.run.ranks import Ranks

ONE = Ranks(0, 1, torch.device("cpu"))
Arguments = Callable[..., list[str]]


@pytest.fixture(scope="module")
def caches(shards: Path, guided_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Features of main and guided rows; `faceless` is without patch tokens."""
    folder = tmp_path_factory.mktemp("caches")
    towers = ["--teacher", "mini", "--size", "mini", "--captions", "--patch-dtype", "float32", "--threads", "1"]
    for name, source, more in (
        ("main", shards, []),
        ("faceless", shards, ["--no-faces"]),
        ("guided", guided_shards, ["--no-faces"]),
    ):
        assert cache.main(["pretrain", "--data", str(source), "--out", str(folder / name), *towers, *more]) == 0
    return {path.name: path for path in folder.iterdir()}


def gradient(arguments: list[str]) -> torch.Tensor:
    task = build(parse(PretrainConfig, arguments), ONE)
    task.backward(task.batch(0), 0)
    return torch.cat([parameter.grad.flatten() for parameter in task.parameters])


@pytest.mark.parametrize("main", ["main", "faceless"])
def test_cached_features_train_as_live_towers_do(main: str, pretrain_arguments: Arguments, caches: dict[str, Path]) -> None:
    options: dict[str, Any] = {"steps": 1, "dropout": 0.0, "guided_fraction": 0.5, "batch_size": 8}
    live = gradient(pretrain_arguments(**options))
    cached = gradient(pretrain_arguments(**options, features=caches[main], guided_features=caches["guided"]))
    assert (cached - live).norm() < 1e-4 * live.norm()


def test_features_of_other_towers_are_refused(pretrain_arguments: Arguments, caches: dict[str, Path]) -> None:
    def start(**options: Any) -> None:
        given = {"features": caches["main"], "guided_features": caches["guided"], **options}
        build(parse(PretrainConfig, pretrain_arguments(steps=1, **given)), ONE)

    with pytest.raises(CacheError, match="caption embeddings were made by another text tower"):
        start(seed=1)
    with pytest.raises(CacheError, match="are those of mini, but the run's teacher is ViT-L-14"):
        start(teacher="ViT-L-14")
    with pytest.raises(CacheError, match=r"has no clip_image of shape \[48\]"):
        start(branch="g")


def mini_clip_checkpoint(path: Path, seed: int) -> Path:
    """A CLIP with both towers, as --init-clip takes it."""
    torch.manual_seed(seed)
    clip = teacher.mini_clip(FaceCLIPConfig.preset("mini").branches["l"].text)
    torch.save(clip.state_dict(), path)
    return path


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_cache_belongs_to_its_clips_weights_whatever_it_was_computed_in(
    dtype: str, pretrain_arguments: Arguments, shards: Path, tmp_path: Path
) -> None:
    clip = mini_clip_checkpoint(tmp_path / "clip.pt", seed=1)
    towers = ["--teacher", "mini", "--size", "mini", "--init-clip", str(clip), "--captions", "--no-faces", "--dtype", dtype]
    assert cache.main(["pretrain", "--data", str(shards), "--out", str(tmp_path / "c"), *towers, "--threads", "1"]) == 0

    def start(**options: Any) -> None:
        given = {"features": tmp_path / "c", "guided_fraction": 0.0, "guided": "", "init_clip": clip, **options}
        task = build(parse(PretrainConfig, pretrain_arguments(steps=1, **given)), ONE)
        assert all(math.isfinite(value) for value in task.backward(task.batch(0), 0).values())

    start()
    start(dtype="bf16")
    text = {name: tensor for name, tensor in torch.load(clip).items() if not name.startswith("visual.")}
    torch.save(text, tmp_path / "text.pt")
    start(init_clip=tmp_path / "text.pt")  # no vision tower to compare
    torch.save({**torch.load(mini_clip_checkpoint(tmp_path / "other.pt", seed=2)), **text}, tmp_path / "other.pt")
    with pytest.raises(CacheError, match="made by a mini with other weights than those of the run's --init-clip"):
        start(init_clip=tmp_path / "other.pt")
    with pytest.raises(CacheError, match="with other weights"):
        start(init_clip=tmp_path / "other.pt", teacher="")


def test_held_out_shards_need_the_teacher(pretrain_arguments: Arguments, caches: dict[str, Path], shards: Path) -> None:
    arguments = pretrain_arguments(steps=1, features=caches["main"], guided_features=caches["guided"], held_out=shards)
    with pytest.raises(ConfigError, match="needs the image teacher"):
        build(parse(PretrainConfig, [*arguments, "--teacher", ""]), ONE)
