"""What a run tells: JSONL, TensorBoard, Weights & Biases (offline), and the progress bar."""

from __future__ import annotations

import importlib.util
import json
import logging
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from train.pretrain.command import main
from train.pretrain.config import PretrainConfig
from train.run.logs import RunLog
from train.run.ranks import Ranks

ONE = Ranks(0, 1, torch.device("cpu"))
VALUES = {"loss": 2.5, "image": 1.0, "identity": 0.75, "text": 0.75, "scale_image": 14.29, "gradient_norm": 0.5, "lr": 2e-5}


def config(out: Path, **options: Any) -> PretrainConfig:
    out.mkdir(exist_ok=True)
    return PretrainConfig(out=out, data="shards", teacher="mini", steps=4, batch_size=8, **{"log_every": 1, **options})


def write(settings: PretrainConfig, first: int = 1, last: int = 4) -> None:
    with RunLog(settings, ONE, first - 1) as log:
        for step in range(first, last + 1):
            log.step(step, {**VALUES, "loss": 2.5 - step / 4})
        log.note("evaluate", last, {"retrieval": 0.5, "judge": "mini"})


def test_every_value_is_a_line_of_json(tmp_path: Path) -> None:
    write(config(tmp_path / "run"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["step"]) for line in lines] == [*(("train", step) for step in (1, 2, 3, 4)), ("evaluate", 4)]
    assert {name: lines[0][name] for name in VALUES} == {**VALUES, "loss": 2.25} and lines[0]["samples_per_second"] > 0


def test_only_every_nth_step_and_the_last_are_logged_and_other_ranks_are_silent(tmp_path: Path) -> None:
    write(config(tmp_path / "run", log_every=3))
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [3, 4]
    with RunLog(config(tmp_path / "other", tensorboard=True), Ranks(1, 2, torch.device("cpu")), 0) as log:
        log.step(1, VALUES)
        log.note("evaluate", 1, {"retrieval": 0.5})
    assert not list((tmp_path / "other").iterdir())


def test_tensorboard_reads_the_values_and_a_resumed_run_replaces_what_it_repeats(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = config(tmp_path / "run", tensorboard=True)
    write(settings, last=3)
    write(settings, first=3)  # from a checkpoint of step 2
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert {"train/loss", "train/scale_image", "train/lr", "train/samples_per_second"} <= set(events.Tags()["scalars"])
    losses = {event.step: event.value for event in events.Scalars("train/loss")}
    assert losses == {1: 2.25, 2: 2.0, 3: 1.75, 4: 1.5}
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]
    assert events.Scalars("evaluate/retrieval")[-1].value == 0.5


def test_wandb_writes_the_values_offline_and_a_resumed_run_is_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    settings = config(tmp_path / "run", wandb="faceclip-test")
    write(settings, last=2)
    write(settings, first=3)
    wandb.teardown()  # its process has written everything once it has ended
    folders = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))
    history, ids, configs = {}, set(), []
    for folder in folders:
        for record in wandb_records(next(folder.glob("*.wandb"))):
            kind = record.WhichOneof("record_type")
            if kind == "history":
                row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
                history.setdefault(row["_step"], {}).update(row)
            elif kind == "run":
                ids.add(record.run.run_id)
                configs.append({item.key: json.loads(item.value_json) for item in record.run.config.update})
                assert record.run.project == "faceclip-test" and record.run.display_name == "run"
    assert ids == {(tmp_path / "run" / "wandb_run").read_text()}
    assert {step: row["train/loss"] for step, row in history.items()} == {1: 2.25, 2: 2.0, 3: 1.75, 4: 1.5}
    assert history[4]["evaluate/retrieval"] == 0.5 and history[1]["train/lr"] == 2e-5
    assert configs[0]["batch_size"] == 8 and configs[0]["teacher"] == "mini"


def wandb_records(path: Path) -> list[Any]:
    """The records of a run's file: protobuf messages, in parts that do not
    cross blocks of 32 KiB (LevelDB's log format)."""
    from wandb.proto import wandb_internal_pb2

    block, head, (whole, last) = 32768, 7, (1, 4)
    content = path.read_bytes()
    records, message, offset = [], b"", head  # the file begins with a header of the same size
    while offset + head <= len(content):
        if block - offset % block < head:
            offset += block - offset % block
            continue
        length, kind = struct.unpack("<4xHB", content[offset : offset + head])
        message += content[offset + head : offset + head + length]
        offset += head + length
        if kind in (whole, last):
            records.append(wandb_internal_pb2.Record.FromString(message))
            message = b""
    return records


@pytest.mark.parametrize(("option", "package"), [({"wandb": "project"}, "wandb"), ({"tensorboard": True}, "tensorboard")])
def test_a_missing_package_is_named_before_anything_is_loaded(
    option: dict[str, Any],
    package: str,
    pretrain_arguments: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == package else find(name, *a))
    monkeypatch.setattr("train.pretrain.command.new_encoder", lambda config: pytest.fail("the run had begun"))
    assert main(pretrain_arguments(steps=1, **option)) == 1
    message = capsys.readouterr().err
    assert f"the package {package} is not installed" in message and f"pip install {package}" in message
    assert not (tmp_path / "run").exists()


def test_the_progress_bar_shows_speed_loss_parts_scale_and_learning_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(config(tmp_path / "run"))
    last = capsys.readouterr().err.split("\r")[-1]
    assert "4/4" in last
    for part in ("samples/s=", "loss=1.5", "image=1", "identity=0.75", "text=0.75", "scale_image=14.29", "lr=2e-05"):
        assert part in last
