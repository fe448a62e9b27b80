"""What a run starts from is told.

A random tower, or no guided rows, at full size only where it was asked for by name.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from train.cache import command as cache
from train.frozen.config import TowerConfig
from train.frozen.starts import named_starts, told_starts
from train.frozen.towers import InitError
from train.pretrain.command import _effective, build, main
from train.pretrain.config import PretrainConfig
from train.run.command_line import parse
from train.run.config import ConfigError
from train.run.ranks import Ranks

FILES = {"init_clip": "clip.pt", "init_face": Path("model.pt")}


def full_size(**options: Any) -> PretrainConfig:
    settings = {"data": "shards", "out": Path("run"), "steps": 1, "batch_size": 2, "teacher": "ViT-L-14-quickgelu"}
    return PretrainConfig(**{**settings, **FILES, "guided": "pairs", **options})


@pytest.mark.parametrize(
    ("left_out", "named", "message"),
    [
        ({"init_face": None}, {"init_face": Path("random")}, "no face tower to start from.*say so: --init-face random"),
        ({"init_clip": ""}, {"init_clip": "random"}, "no text tower to start from.*say so: --init-clip random"),
        (
            {"guided": ""},
            {"guided": "", "guided_fraction": 0.0},
            "0.1, and --guided names no shards.*-fraction 0",
        ),
    ],
)
def test_what_was_forgotten_is_refused_at_full_size_unless_asked_for_by_name(
    left_out: dict[str, Any], named: dict[str, Any], message: str
) -> None:
    with pytest.raises((InitError, ConfigError), match=message):
        build(full_size(**left_out), Ranks(0, 1, torch.device("cpu")))
    asked_for = full_size(**named)
    assert _effective(asked_for, starts_from_files=True) == asked_for


def test_an_encoder_file_brings_both_towers_and_takes_no_other_face_tower() -> None:
    whole = full_size(init_encoder=Path("encoder.pt"), init_face=None, init_clip="")
    assert _effective(whole, starts_from_files=True) == whole
    with pytest.raises(InitError, match="--init-encoder and --init-face both name a face tower"):
        _effective(full_size(init_encoder=Path("encoder.pt")), starts_from_files=True)


def test_a_cache_of_a_random_tower_is_refused_too(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["pretrain", "--data", str(shards), "--out", str(tmp_path / "cache")]
    assert cache.main(given) == 1
    assert "no face tower to start from" in capsys.readouterr().err
    assert cache.main([*given, "--no-faces", "--captions"]) == 1
    assert "no text tower to start from" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_towers_that_are_not_used_need_no_file() -> None:
    assert named_starts(TowerConfig(), face=False, text=False) == TowerConfig()


def test_a_small_run_tells_and_writes_what_it_does(
    pretrain_arguments: Callable[..., list[str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(pretrain_arguments(steps=1, guided=None)) == 0
    assert "Face tower: random, from seed 0. Text tower: random, from seed 0. Image teacher: mini" in caplog.text
    assert "Guided rows: none (lambda is 0)" in caplog.text
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (written["guided_fraction"], written["init_face"], written["init_clip"]) == (0.0, "random", "random")
    caplog.clear()
    assert main(["--config", str(tmp_path / "run" / "config.yaml"), "--steps", "2"]) == 0
    assert "Going on with another steps than the run began with: 2, was 1." in caplog.text
    assert caplog.text.count("Going on with another") == 1


def test_guided_rows_are_told_with_their_share(pretrain_arguments: Callable[..., list[str]], caplog: Any) -> None:
    caplog.set_level("INFO", logger="train")
    config = parse(PretrainConfig, pretrain_arguments(steps=1))
    build(config, Ranks(0, 1, torch.device("cpu")))
    assert f"Guided rows: 0.25 of the batch (lambda), from {config.guided}" in caplog.text
    assert told_starts(TowerConfig(**FILES, teacher="mini")).startswith("Face tower: model.pt. Text tower: clip.pt.")
