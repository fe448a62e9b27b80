"""A LoRA of the UNet: what is trained, what is written, and who reads it."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from faceclip.sdxl_files import load_unet
from train.export import main as export
from train.finetune_sdxl.command import build, main
from train.finetune_sdxl.config import FinetuneConfig
from train.finetune_sdxl.lora import TARGETS
from train.run.checkpointing import SavedState
from train.run.command_line import PRESETS, parse
from train.run.config import ConfigError
from train.run.loop import train_step
from train.run.ranks import Ranks

pytest.importorskip("peft", reason="LoRA needs the extra `lora`")
pytestmark = pytest.mark.training

ONE = Ranks(0, 1, torch.device("cpu"))
RANK = 4
Arguments = Callable[..., list[str]]


@pytest.fixture
def arguments(finetune_command: Arguments, tmp_path: Path) -> Arguments:
    """`arguments(out="run", steps=2, ...)` -> the command line of a LoRA's run below the test's folder."""
    return lambda out="run", **options: finetune_command(
        tmp_path / out, **{"lora": RANK, "resolution": 64, "lr": 1e-2, "steps": 2, **options}
    )


def task_of(arguments: list[str]) -> Any:
    return build(parse(FinetuneConfig, arguments), ONE)


def predicted(unet: Any) -> torch.Tensor:
    """What a UNet makes of one input, the same at every call."""
    random = torch.Generator().manual_seed(0)
    noisy, embeddings, pooled = (torch.randn(shape, generator=random) for shape in ((2, 4, 8, 8), (2, 77, 80), (2, 48)))
    dtype = next(unet.parameters()).dtype
    added = {"text_embeds": pooled.to(dtype), "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2)}
    with torch.no_grad():
        return unet(noisy.to(dtype), torch.tensor([7, 500]), embeddings.to(dtype), added_cond_kwargs=added).sample.float()


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_lora_begins_at_the_base_and_trains_nothing_else(dtype: str, arguments: Arguments, unet: Path) -> None:
    task = task_of(arguments(dtype=dtype))
    base = load_unet(unet, PRESETS / "mini_unet.json", torch.bfloat16 if dtype == "bf16" else torch.float32)
    assert torch.equal(predicted(task.unet), predicted(base))
    attentions = {name for name, _ in base.named_modules() if name.endswith(TARGETS)}
    assert {name.rpartition(".lora_")[0] for name in task.names} == attentions and len(task.names) == 2 * len(attentions)
    assert all(parameter.dtype == torch.float32 for parameter in task.parameters)
    frozen = {name: p.clone() for name, p in task.unet.named_parameters() if not p.requires_grad}
    for step in range(2):
        train_step(task, task.config, ONE, step)
    assert all(torch.equal(task.unet.get_parameter(name), p) for name, p in frozen.items())
    assert all(p.abs().max() > 0 for p in task.parameters)
    assert not torch.equal(predicted(task.unet), predicted(base))


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "bf16", "activation_checkpointing": True, "micro_batch": 2},
        {"ema": 0.0, "phases": ("steps=1,lr=1e-3", "lr=1e-2,batch_size=2")},
        {"optimizer": "adamw8bit"},
    ],
    ids=["bf16 in micro-batches", "phases, no average", "8 bits"],
)
def test_a_lora_resumes_byte_for_byte(options: dict[str, Any], arguments: Arguments, tmp_path: Path) -> None:
    if options.get("optimizer"):
        pytest.importorskip("bitsandbytes", reason="needs the extra `lora`")
    assert main(arguments("whole", **{**options, "save_every": 1})) == 0
    first = Path("checkpoints", "step-00000001")
    shutil.copytree(tmp_path / "whole" / first, tmp_path / "halves" / first)
    assert main(arguments("halves", **options)) == 0
    names = ["lora.safetensors"] if options.get("ema") == 0.0 else ["lora.safetensors", "lora_last.safetensors"]
    for name in names:
        assert (tmp_path / "halves" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert export([str(tmp_path / "whole"), str(tmp_path / "made.safetensors")]) == 0
    assert (tmp_path / "made.safetensors").read_bytes() == (tmp_path / "whole" / "lora.safetensors").read_bytes()


def test_a_run_that_looks_at_its_lora_ends_with_the_same_bytes_and_draws_the_average(
    arguments: Arguments, shards: Path, tmp_path: Path
) -> None:
    options = {"steps": 2, "ema": 0.5, "dtype": "bf16", "lr": 0.1}
    seen = {"held_out": shards, "held_out_rows": 2, "look_people": 1, "look_prompts": ("a portrait",), "look_steps": 2}
    assert main(arguments("blind", **options)) == 0
    assert main(arguments("seeing", look_every=1, look_judge="none", **seen, **options)) == 0
    for name in ("lora.safetensors", "lora_last.safetensors"):
        assert (tmp_path / "seeing" / name).read_bytes() == (tmp_path / "blind" / name).read_bytes()
    grids = [path.read_bytes() for path in sorted((tmp_path / "seeing" / "looks").iterdir())]
    assert len(grids) == len(set(grids)) == 3  # the base, then what the LoRA makes of it
    task = task_of(arguments("last", **{**options, **seen}, look_judge="none"))
    task.load_state(SavedState(tmp_path / "seeing" / "checkpoints" / "step-00000002"), 2)
    last = Path(task.look(9)["grid"]).read_bytes()
    average = Path(task.evaluate(2)["grid"]).read_bytes()
    assert average == grids[2] != last


@pytest.fixture(scope="module")
def trained(finetune_command: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a few steps, in fp32, without an average."""
    run = tmp_path_factory.mktemp("trained")
    assert main(finetune_command(run, lora=RANK, resolution=64, lr=1e-2, steps=3, ema=0.0)) == 0
    return run


def test_the_file_merged_is_the_file_applied_by_diffusers(trained: Path, unet: Path, tmp_path: Path) -> None:
    from diffusers.loaders import StableDiffusionXLLoraLoaderMixin as Loader

    base = load_unet(unet, PRESETS / "mini_unet.json", torch.float32)
    before = predicted(base)
    assert export([str(trained), str(tmp_path / "merged"), "--merge", str(unet)]) == 0
    merged = load_unet(tmp_path / "merged", PRESETS / "mini_unet.json", torch.float32)
    state, alphas, *_ = Loader.lora_state_dict(trained / "lora.safetensors", unet_config=base.config)
    Loader.load_lora_into_unet(state, network_alphas=alphas, unet=base)
    applied = predicted(base)
    change = (applied - before).norm()
    assert change > 1e-2 * before.norm()
    assert (predicted(merged) - applied).norm() < 1e-5 * applied.norm()
    base.set_adapters(base.active_adapters(), [0.0])
    assert torch.equal(predicted(base), before)


def test_the_names_of_diffusers_and_of_kohya_say_the_same_to_diffusers(trained: Path, unet: Path, tmp_path: Path) -> None:
    from diffusers.loaders import StableDiffusionXLLoraLoaderMixin as Loader

    task = task_of(["--config", str(trained / "config.yaml")])
    task.load_state(SavedState(trained / "checkpoints" / "step-00000003"), 3)
    theirs = {f"unet.{name}": tensor.detach().contiguous() for name, tensor in task.names.items()}
    save_file(theirs, tmp_path / "diffusers.safetensors")
    made = []
    for file in (trained / "lora.safetensors", tmp_path / "diffusers.safetensors"):
        base = load_unet(unet, PRESETS / "mini_unet.json", torch.float32)
        state, alphas, *_ = Loader.lora_state_dict(file, unet_config=base.config)
        Loader.load_lora_into_unet(state, network_alphas=alphas, unet=base)
        made.append(predicted(base))
    assert torch.equal(*made) and torch.equal(made[0], predicted(task.unet))


def test_two_ranks_train_the_lora_of_one(arguments: Arguments, launch: Callable[..., Any], tmp_path: Path) -> None:
    command = launch("train.finetune_sdxl", arguments(micro_batch=1, lr=1e-3), ranks=2)
    assert main(arguments("alone", lr=1e-3)) == 0
    assert command.wait() == [0, 0], command.said()
    alone, together = (load_file(tmp_path / name / "lora.safetensors") for name in ("alone", "run"))
    ups = [name for name in alone if "lora_up" in name]
    moved, apart = (torch.cat([tensor[name].flatten() for name in ups]) for tensor in (alone, together))
    assert (moved - apart).norm() < 0.1 * moved.norm() and moved.norm() > 0  # Adam makes much of gradients near zero


def test_the_file_says_what_it_is(trained: Path) -> None:
    with safe_open(trained / "lora.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "steps": "3", "prediction": "v", "zero_terminal_snr": "true"}
        alphas = {float(file.get_tensor(name)) for name in file.keys() if name.endswith(".alpha")}  # noqa: SIM118
    assert alphas == {float(RANK)}
    assert not (trained / "unet").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora": 0}, "lora is 0; a rank is at least 1. Leave it out to train the whole UNet."),
        ({"lora": -3}, "lora is -3; a rank is at least 1"),
        ({"cuda_graph": True}, "cuda_graph replays the whole UNet's training, and not a LoRA's"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_refused(options: dict[str, Any], message: str, arguments: Arguments) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(parse(FinetuneConfig, arguments()), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora": 65}, "lora is 65, and the UNet's narrowest layer is 64 wide"),
        (
            {"lora": None, "dtype": "bf16", "optimizer": "adamw8bit"},
            "trained in torch.bfloat16, where it would lose most updates",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_trained_is_explained(
    options: dict[str, Any], message: str, arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(**options)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("package", "options"), [("peft", {}), ("bitsandbytes", {"optimizer": "adamw8bit"})])
def test_a_missing_package_is_named(
    package: str,
    options: dict[str, Any],
    arguments: Arguments,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main(arguments(**options)) == 1
    error = capsys.readouterr().err
    assert f"needs {package}, which cannot be imported here" in error and f"pip install {package}" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora": None}, "is of a run with --lora 4, and this one is to train the whole UNet. To go on, give --lora 4; or give"),
        ({"lora": 8}, "is of a run with --lora 4, and this one has --lora 8. To go on, give --lora 4"),
        ({"optimizer": "adamw8bit"}, "is of a run with --optimizer adamw, whose state does not fit adamw8bit"),
    ],
    ids=str,
)
def test_a_lora_does_not_go_on_as_something_else(
    options: dict[str, Any],
    message: str,
    trained: Path,
    arguments: Arguments,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if options.get("optimizer"):
        pytest.importorskip("bitsandbytes", reason="needs the extra `lora`")
    shutil.copytree(trained, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert main(arguments(**{"ema": 0.0, "steps": 4, **options})) == 1
    assert message in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_whole_unets_run_does_not_go_on_as_a_lora_nor_merge(
    arguments: Arguments, unet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(lora=None, steps=1)) == 0
    assert main(arguments(steps=2)) == 1
    assert (
        "is of a run that trains the whole UNet, and this one has --lora 4. To go on, leave --lora out" in capsys.readouterr().err
    )
    assert export([str(tmp_path / "run"), str(tmp_path / "out"), "--merge", str(unet)]) == 1
    assert "holds a whole UNet and no LoRA: leave --merge out." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_export_wants_a_files_name_and_a_unet_that_fits(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export([str(trained), str(tmp_path / "out")]) == 1
    assert f"becomes one file: name it, for example {tmp_path / 'out'}.safetensors." in capsys.readouterr().err
    from diffusers import UNet2DConditionModel

    config = dict(UNet2DConditionModel.load_config(PRESETS / "mini_unet.json"))
    other = UNet2DConditionModel.from_config({**config, "block_out_channels": [64, 64, 64], "attention_head_dim": [1, 1, 1]})
    other.save_pretrained(tmp_path / "other")
    assert export([str(trained), str(tmp_path / "out"), "--merge", str(tmp_path / "other")]) == 1
    assert "does not fit the UNet" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
