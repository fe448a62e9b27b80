"""A UNet of any checkpoint: the same bytes as the finished run writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from train.export import main
from train.finetune_sdxl.command import main as finetune

FILE = "diffusion_pytorch_model.safetensors"


def test_a_checkpoint_becomes_the_unet_that_the_run_writes(finetune_command: Callable[..., list[str]], tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert finetune(finetune_command(run, steps=2, save_every=1, keep_last=2)) == 0
    assert main([str(run), str(tmp_path / "average")]) == 0
    assert main([str(run / "checkpoints" / "step-00000002"), str(tmp_path / "last"), "--last"]) == 0
    assert main([str(run / "checkpoints" / "step-00000001"), str(tmp_path / "first")]) == 0
    for made, written in (("average", "unet"), ("last", "unet_last")):
        assert (tmp_path / made / FILE).read_bytes() == (run / written / FILE).read_bytes()
    first, last = load_file(tmp_path / "first" / FILE), load_file(tmp_path / "average" / FILE)
    assert first.keys() == last.keys() and any(not (first[name] == last[name]).all() for name in first)


def test_what_is_no_checkpoint_of_finetuning_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), str(tmp_path / "out")]) == 1
    assert "There is no checkpoint at" in capsys.readouterr().err
    (tmp_path / "run.json").write_text('{"config": {"branch": "l"}, "step": 3}')
    assert main([str(tmp_path), str(tmp_path / "out")]) == 1
    assert "a checkpoint of another kind of run" in capsys.readouterr().err
    (tmp_path / "run.json").write_text("{")
    assert main([str(tmp_path), str(tmp_path / "out")]) == 1
    assert "its run.json cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
