"""What a run tells: JSONL, TensorBoard, Weights & Biases (offline), and the progress bar."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel

from train.pretrain.command import build, main
from train.pretrain.config import PretrainConfig
from train.run.command_line import parse
from train.run.config import ConfigError
from train.run.flops import forward_and_backward
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


@pytest.mark.program
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


class Watch:
    """`time`, standing still unless it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_speed_leaves_pauses_out_and_the_time_left_counts_those_between_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_log: Callable
) -> None:
    watch = Watch()
    monkeypatch.setattr("train.run.clock.time", watch)
    settings = config(tmp_path / "run", log_every=2, peak_tflops=4e-9)  # 4,000 FLOP/s
    with RunLog(settings, ONE, 0) as log:
        log.computes(lambda step: 1000.0)
        with log.pause() as first:  # a look before the first step is no part of the pace
            watch.now += 100
        for step in (1, 2):
            watch.now += 5
            log.step(step, {**VALUES, "data_seconds": 1.5 * step, "peak_memory_gib": 2.0})
        with log.pause() as second:
            watch.now += 30
        for step in (3, 4):
            watch.now += 10
            log.step(step, {**VALUES, "data_seconds": 0.25, "peak_memory_gib": 3.0})
    assert (first.seconds, first.share_of_time) == (100, 1)
    assert (second.seconds, second.share_of_time) == (30, 130 / 140)
    early, late = read_log(tmp_path / "run")
    assert (early["samples_per_second"], late["samples_per_second"]) == (16 / 10, 16 / 20)  # batches of 8
    assert (early["mfu"], late["mfu"]) == pytest.approx((1.6 * 1000 / 4000, 0.8 * 1000 / 4000))
    assert (early["data_seconds"], late["data_seconds"]) == (4.5, 0.5)  # of both steps
    assert (early["peak_memory_gib"], late["peak_memory_gib"]) == (2.0, 3.0)
    assert (early["eta_seconds"], late["eta_seconds"]) == (10, 0)


def test_the_time_left_goes_by_the_rows_of_later_phases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_log: Callable
) -> None:
    watch = Watch()
    monkeypatch.setattr("train.run.clock.time", watch)
    with RunLog(config(tmp_path / "run", phases=("steps=1,batch_size=8", "steps=3,batch_size=2")), ONE, 0) as log:
        watch.now += 4
        log.step(1, VALUES)
    assert read_log(tmp_path / "run")[0]["eta_seconds"] == 3  # 6 rows at 2 a second


def test_several_devices_share_the_peak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_log: Callable) -> None:
    watch = Watch()
    monkeypatch.setattr("train.run.clock.time", watch)
    with RunLog(config(tmp_path / "run", peak_tflops=1e-9), Ranks(0, 4, torch.device("cpu")), 0) as log:
        log.computes(lambda step: 100.0)
        watch.now += 2
        log.step(1, VALUES)
    assert read_log(tmp_path / "run")[0]["mfu"] == pytest.approx(8 / 2 * 100 / (4 * 1000))


def test_where_the_peak_is_unknown_nothing_is_counted_and_no_mfu_told(tmp_path: Path, read_log: Callable) -> None:
    with RunLog(config(tmp_path / "run"), ONE, 0) as log:
        log.computes(lambda step: pytest.fail("it was asked for"))
        log.step(1, VALUES)
    assert "mfu" not in read_log(tmp_path / "run")[0]
    with pytest.raises(ConfigError, match="peak_tflops is -1"):
        config(tmp_path / "run", peak_tflops=-1.0)


def test_a_picture_is_shown_by_tensorboard_and_named_in_the_log(tmp_path: Path, read_log: Callable) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = config(tmp_path / "run", tensorboard=True)
    pixels = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "grid.png")
    with RunLog(settings, ONE, 0) as log:
        log.note("evaluate", 2, {"held_out_loss": 0.5, "grid": tmp_path / "grid.png"})
    assert read_log(tmp_path / "run")[0]["grid"] == str(tmp_path / "grid.png")
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    (shown,) = events.Images("evaluate/grid")
    assert shown.step == 2 and np.array_equal(np.array(Image.open(io.BytesIO(shown.encoded_image_string))), pixels)
    assert events.Scalars("evaluate/held_out_loss")[0].value == 0.5


def test_pretraining_tells_what_it_waited_for_and_what_it_takes(
    pretrain_arguments: Callable[..., list[str]], tmp_path: Path, read_log: Callable
) -> None:
    task = build(parse(PretrainConfig, pretrain_arguments(steps=2)), ONE)
    (shape,) = task.model.encoder.config.branches.values()
    inputs = (
        torch.zeros(1, shape.text.context, dtype=torch.long),
        torch.zeros(1, 1, shape.face.classes),
        torch.zeros(1, 1, shape.face.grid**2, shape.face.width),
        torch.ones(1, dtype=torch.bool),
    )
    with sdpa_kernel(SDPBackend.MATH):  # in matrix products: torch's counter knows no other attention of CPUs
        counted = forward_and_backward(lambda: task.model(*inputs))
    assert task.flops_per_row(0) == sum(counted)
    assert main(pretrain_arguments(steps=2, peak_tflops=1.0)) == 0
    lines = [line for line in read_log(tmp_path / "run") if line["kind"] == "train"]
    for line in lines:
        assert line["mfu"] == pytest.approx(line["samples_per_second"] * task.flops_per_row(0) / 1e12)
        assert line["data_seconds"] > 0 and 0.1 < line["peak_memory_gib"] < 64
    assert lines[0]["eta_seconds"] > 0 == lines[1]["eta_seconds"]
