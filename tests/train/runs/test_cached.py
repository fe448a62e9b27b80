"""Pretraining from cached features: the same training as with live towers, and refused when other towers made them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from train import cache
from train.cache import CacheError
from train.config import ConfigError, PretrainConfig, parse
from train.distributed import Ranks
from train.pretrain import build

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


def test_held_out_shards_need_the_teacher(pretrain_arguments: Arguments, caches: dict[str, Path], shards: Path) -> None:
    arguments = pretrain_arguments(steps=1, features=caches["main"], guided_features=caches["guided"], held_out=shards)
    with pytest.raises(ConfigError, match="needs the image teacher"):
        build(parse(PretrainConfig, [*arguments, "--teacher", ""]), ONE)
