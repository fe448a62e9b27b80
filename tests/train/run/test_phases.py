"""Phases and rotten samples in whole runs: told, in the right order, and the same after a resumption."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from train.cache import command as cache
from train.cache.row_store import CacheError
from train.data.shards import ShardSource
from train.finetune_sdxl.command import build as build_finetuning
from train.finetune_sdxl.config import FinetuneConfig
from train.pretrain import command
from train.pretrain.command import main
from train.pretrain.config import PretrainConfig
from train.run.command_line import parse, write_yaml
from train.run.config import ConfigError
from train.run.loop import learning_rate
from train.run.ranks import Ranks

ONE = Ranks(0, 1, torch.device("cpu"))
Arguments = Callable[..., list[str]]
PHASES = ("steps=2,batch_size=6,lr=2e-3", "batch_size=2")


def config(*phases: str, **options: Any) -> PretrainConfig:
    return PretrainConfig(
        **{"out": Path("o"), "data": "d", "teacher": "mini", "steps": 10, "batch_size": 4, **options}, phases=phases
    )


def test_phases_are_read_from_flags_and_yaml_alike(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "steps: 9\nbatch_size: 8\nphases:\n- {steps: 4, batch_size: 16, lr: 1e-3}\n- steps=3\n- {batch_size: 2}\n"
    )
    given = ["--config", str(tmp_path / "c.yaml"), "--data", "d", "--out", "o", "--teacher", "mini"]
    found = parse(PretrainConfig, given)
    assert [(p.first, p.steps, p.batch_size, p.lr) for p in found.stretches] == [
        (0, 4, 16, 1e-3),
        (4, 3, 8, 2e-5),
        (7, 2, 2, 2e-5),
    ]
    write_yaml(found, tmp_path / "written.yaml")
    assert dataclasses.asdict(parse(PretrainConfig, ["--config", str(tmp_path / "written.yaml")])) == dataclasses.asdict(found)
    assert parse(PretrainConfig, [*given, "--phases", "steps=9,lr=1"]).stretches[0].lr == 1


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        (("steps=4", "steps=5"), "The phases have 9 steps together, and steps is 10. Give --steps 9, or change one"),
        (("batch_size=4", "steps=10"), "Phase 1 has steps 0"),
        (("steps=10,batch_size=0",), "Phase 1 has steps 10, batch_size 0"),
        (("steps=ten",), "has 'steps=ten', which is no int"),
        (("steps=10,resolution=512",), "has 'resolution=512'; expected NAME=VALUE, of steps, batch_size, lr"),
        (("steps",), "expected NAME=VALUE"),
    ],
)
def test_phases_that_cannot_be_meant_are_refused(phases: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(*phases)


def test_each_phase_has_its_rate_between_warm_up_and_cooldown() -> None:
    settings = config("steps=5,lr=1", "lr=0.1", warmup=2, cooldown=2)
    assert [learning_rate(settings, step) for step in range(10)] == pytest.approx([0.5, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.05])


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The keys of every batch that is trained on from now on."""
    keys: list[list[str]] = []
    step = command.PretrainTask.backward
    monkeypatch.setattr(
        command.PretrainTask,
        "backward",
        lambda task, batch, number: (keys.append(list(batch["key"])), step(task, batch, number))[1],
    )
    return keys


def test_phases_see_each_row_once_an_epoch_and_a_resumed_run_has_the_same_bits(
    pretrain_arguments: Arguments, seen: list[list[str]], tmp_path: Path, read_log: Callable
) -> None:
    options = {"guided": None, "phases": PHASES, "save_every": 1, "keep_last": 9, "held_out": None}
    assert main(pretrain_arguments("whole", steps=8, **options)) == 0
    assert [len(keys) for keys in seen] == [6] * 2 + [2] * 6
    assert len({key for keys in seen for key in keys}) == 24  # 24 photographs, all of them once
    lines = read_log(tmp_path / "whole")
    assert [(line["step"], line["settings"]) for line in lines if line["kind"] == "phase"] == [(0, PHASES[0]), (2, PHASES[1])]
    assert [line["lr"] for line in lines if line["kind"] == "train"] == [2e-3] * 2 + [1e-3] * 6
    for stopped in (1, 2, 5):
        part = f"from{stopped}"
        place = f"checkpoints/step-{stopped:08d}"
        shutil.copytree(tmp_path / "whole" / place, tmp_path / part / place)
        assert main(pretrain_arguments(part, steps=8, **options)) == 0
        ours, whole = (load_file(tmp_path / run / "encoder.safetensors") for run in (part, "whole"))
        assert all(torch.equal(ours[name], tensor) for name, tensor in whole.items())


def test_a_batch_that_is_changed_on_the_way_goes_on_with_rows_that_were_not_seen(
    pretrain_arguments: Arguments, seen: list[list[str]]
) -> None:
    options = {"guided": None, "save_every": 1}
    assert main(pretrain_arguments(steps=2, **{**options, "batch_size": 8})) == 0
    assert main(pretrain_arguments(steps=4, **{**options, "batch_size": 2})) == 0
    assert main(pretrain_arguments(steps=5, **{**options, "batch_size": 4})) == 0  # its checkpoint knows of both before it
    assert [len(keys) for keys in seen] == [8, 8, 2, 2, 4] and len({key for keys in seen for key in keys}) == 24


def cache_latents(shards: Path, vae: Path, out: Path, side: int, *more: str) -> None:
    given = ["--data", str(shards), "--threads", "1", "--vae", str(vae), "--out", str(out), "--resolution", str(side)]
    assert cache.main(["latents", *given, "--bucket-step", "32", *more]) == 0


def test_finetuning_changes_its_resolution_and_keeps_its_place(
    finetune_command: Arguments, shards: Path, vae: Path, tmp_path: Path
) -> None:
    for side in (64, 128):
        cache_latents(shards, vae, tmp_path / f"latents{side}", side)
    low, high = "steps=3,resolution=64,batch_size=4", "batch_size=2,lr=1e-5"
    cached = {"vae": None, "latents": tmp_path / "latents128"}
    for files in ({}, cached):
        first = f"{low},latents={tmp_path / 'latents64'}" if files else low
        settings = parse(FinetuneConfig, finetune_command(tmp_path / "run", steps=9, phases=(first, high), **files))
        task = build_finetuning(settings, ONE)
        batches = [task.batch(step)["rows"] for step in range(9)]
        assert [len(rows.key) for rows in batches] == [4] * 3 + [2] * 6
        areas = [rows.time_ids[0, 4].item() * rows.time_ids[0, 5].item() for rows in batches]
        assert max(areas[:3]) <= 64 * 64 < min(areas[3:]) and max(areas) <= 128 * 128
        with torch.no_grad():
            assert all(len(task._losses(rows)) == len(rows.key) for rows in batches[2:4])
        keys = [key for rows in batches for key in rows.key]
        assert len(set(keys)) >= len(keys) - 4  # what a bucket's last batch of an epoch reaches into
    with pytest.raises(ConfigError, match="A phase names latents, and the run a --vae"):
        dataclasses.replace(settings, vae=vae, latents=None)


def test_phases_take_caches_of_one_vae_in_two_precisions_and_refuse_those_of_two(
    finetune_command: Arguments, shards: Path, vae: Path, tmp_path: Path
) -> None:
    first, other = tmp_path / "first", tmp_path / "other"
    cache_latents(shards, vae, first, 128, "--dtype", "fp32")
    cache_latents(shards, vae, other, 64, "--dtype", "bf16")
    phases = (f"steps=2,resolution=64,latents={other}", "batch_size=2")
    settings = parse(FinetuneConfig, finetune_command(tmp_path / "run", phases=phases, vae=None, latents=first))
    task = build_finetuning(settings, ONE)
    assert [task.batch(step)["rows"].time_ids[0, 4].item() <= 64 for step in (1, 2)] == [True, False]

    second = tmp_path / "vae"
    shutil.copytree(vae, second)
    weights = load_file(second / "diffusion_pytorch_model.safetensors")
    save_file({name: 2 * tensor for name, tensor in weights.items()}, second / "diffusion_pytorch_model.safetensors")
    shutil.rmtree(other)
    cache_latents(shards, second, other, 64)
    with pytest.raises(CacheError, match=f"{other} and {first} were cached with different VAEs"):
        build_finetuning(settings, ONE)


def rot(folder: Path, rows: list[int]) -> list[str]:
    """Spoil the faces of some rows on the disk; returns their keys."""
    source = ShardSource(folder)
    for row in rows:
        shard, local = source._locate(row)
        start, size = (int(value) for value in source._indexes[shard].lookup(local)[1][1])
        with Path(source.shards[shard]).open("r+b") as file:
            file.seek(start)
            file.write(bytes(min(size, 64)))
    return [source.key(row) for row in rows]


@pytest.fixture
def rotten(shards: Path, tmp_path: Path) -> tuple[Path, list[str]]:
    """Shards of 24 photographs, two faces of which have rotten, and their keys."""
    shutil.copytree(shards, tmp_path / "shards")
    return tmp_path / "shards", rot(tmp_path / "shards", [5, 17])


@pytest.mark.parametrize("processes", [0, 1], ids=["threads", "a process"])
def test_a_run_goes_on_without_rotten_samples_names_them_and_has_the_same_bits_when_resumed(
    rotten: tuple[Path, list[str]],
    processes: int,
    pretrain_arguments: Arguments,
    seen: list[list[str]],
    tmp_path: Path,
    read_log: Callable,
) -> None:
    folder, keys = rotten
    options = {"guided": None, "data": folder, "tolerate": 2, "save_every": 1, "keep_last": 9, "reader_processes": processes}
    assert main(pretrain_arguments("whole", steps=7, **options)) == 0
    trained = [key for batch in seen for key in batch]
    assert len(trained) == 28 and not set(trained) & set(keys)
    told = [line for line in read_log(tmp_path / "whole") if line["kind"] == "unusable"]
    assert sorted(line["key"] for line in told) == sorted(keys) and all(
        "its face is not a picture" in line["fault"] for line in told
    )
    place = "checkpoints/step-00000003"
    shutil.copytree(tmp_path / "whole" / place, tmp_path / "halves" / place)
    assert main(pretrain_arguments("halves", steps=7, **options)) == 0
    ours, whole = (load_file(tmp_path / run / "encoder.safetensors") for run in ("halves", "whole"))
    assert all(torch.equal(ours[name], tensor) for name, tensor in whole.items())


def test_one_rotten_sample_more_than_tolerated_ends_the_run_and_counts_over_starts(
    rotten: tuple[Path, list[str]], pretrain_arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = rotten
    options = {"guided": None, "data": folder, "save_every": 1, "steps": 12}
    assert main(pretrain_arguments(**options)) == 1
    assert "its face is not a picture" in capsys.readouterr().err
    for _ in range(2):  # the second time it goes on from the checkpoint, and knows the first
        assert main(pretrain_arguments(**options, tolerate=1)) == 1
        assert "2 samples cannot be used, and the run was to tolerate 1" in capsys.readouterr().err
    assert main(pretrain_arguments(**options, tolerate=2)) == 0
    assert not np.isnan(load_file(tmp_path / "run" / "heads.safetensors")["heads.text.weight"].numpy()).any()


@pytest.mark.parametrize("remembered", [False, True])
def test_finetuning_replaces_a_rotten_sample_within_its_bucket(
    rotten: tuple[Path, list[str]], remembered: bool, finetune_command: Arguments, tmp_path: Path
) -> None:
    folder, keys = rotten
    options = {"data": folder, "steps": 6, "tolerate": 2, "remember_conditions": remembered or None}
    settings = parse(FinetuneConfig, finetune_command(tmp_path / "run", **options))
    task = build_finetuning(settings, ONE)
    batches = [task.batch(step) for step in range(6)]
    assert not {key for batch in batches for key in batch["rows"].key} & set(keys)
    assert sorted({key for batch in batches for key, _ in task.unusable(batch)}) == sorted(keys)
    assert all(len({tuple(ids[4:].tolist()) for ids in batch["rows"].time_ids}) == 1 for batch in batches)
    with torch.no_grad():
        assert torch.isfinite(task._losses(batches[0]["rows"])).all()
    again = build_finetuning(settings, ONE)
    assert again.batch(4)["rows"].index == batches[4]["rows"].index
