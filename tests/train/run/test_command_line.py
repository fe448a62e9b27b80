"""Configurations: presets, files and flags become one frozen dataclass, or a message that names the key."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from train.finetune_sdxl.config import FinetuneConfig
from train.pretrain.command import main
from train.pretrain.config import PretrainConfig
from train.run.command_line import PRESETS, parse, read_yaml, run_command, write_yaml
from train.run.config import ConfigError

STAGE_TWO = "--data d --out o --encoder e --unet u"


def pretrain(*arguments: str) -> PretrainConfig:
    return parse(PretrainConfig, ["--data", "shards", "--out", "run", *arguments])


def test_every_preset_fits_its_command() -> None:
    presets = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    assert {"mini", "faceclip_l", "faceclip_bigg", "sdxl_1024", "sdxl_lora"} <= set(presets)
    for preset in presets:
        assert read_yaml(preset, FinetuneConfig if "sdxl" in preset else PretrainConfig)


def test_presets_have_the_papers_values() -> None:
    large = pretrain("--config", "faceclip_l")
    assert (large.batch_size, large.lr, large.betas, large.weight_decay) == (24576, 2e-5, (0.9, 0.999), 0.01)
    assert (large.dtype, large.terms, large.branch) == ("bf16", ("image", "identity", "text"), "l")
    assert pretrain("--config=faceclip_bigg").batch_size == 16384
    stage_two = parse(FinetuneConfig, f"--config sdxl_1024 {STAGE_TWO} --vae v".split())
    assert (stage_two.batch_size, stage_two.prediction, stage_two.min_snr, stage_two.zero_terminal_snr) == (
        4096,
        "epsilon",
        0,
        False,
    )


def test_flags_win_over_files_and_a_written_file_reads_back_equal(tmp_path: Path) -> None:
    config = pretrain("--config", "mini", "--lr", "0.5", "--terms", "image", "text", "--dtype", "bf16")
    assert (config.lr, config.terms, config.dtype, config.size) == (0.5, ("image", "text"), "bf16", "mini")
    write_yaml(config, tmp_path / "config.yaml")
    again = parse(PretrainConfig, ["--config", str(tmp_path / "config.yaml")])
    assert read_yaml(str(tmp_path / "config.yaml"), PretrainConfig) == {
        name: value for name, value in vars(config).items() if value is not None
    }
    assert vars(again) == vars(config)


def test_an_unknown_key_is_named_with_the_nearest_known_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("steps: 5\nbatchsize: 4\n")
    assert main(["--config", str(tmp_path / "mine.yaml"), "--data", "d", "--out", "o"]) == 1
    message = capsys.readouterr().err
    assert "mine.yaml has an unknown key 'batchsize'" in message and "Did you mean 'batch_size'?" in message
    (tmp_path / "other.yaml").write_text("colour: red\n")
    with pytest.raises(ConfigError, match="unknown key 'colour'. Known keys: out, steps"):
        read_yaml(str(tmp_path / "other.yaml"), PretrainConfig)


def test_an_unknown_flag_ends_the_command_and_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_code:
        pretrain("--config", "mini", "--colour", "red")
    assert exit_code.value.code == 2
    assert "--colour" in capsys.readouterr().err


def test_help_describes_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in (PretrainConfig, FinetuneConfig):
        with pytest.raises(SystemExit):
            parse(kind, ["--help"])
        text = " ".join(capsys.readouterr().out.split())
        for name in (field.name for field in dataclasses.fields(kind)):
            assert f"--{name.replace('_', '-')}" in text, name
        assert "Learning rate after warm-up" in text and "Global batch" in text
        assert f"python -m {kind.command}" in text and "--config takes the path of a YAML file or a preset" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("steps: many", "steps is 'many'; expected int"),
        ("lr: [1]", r"lr is \[1\]; expected float"),
        ("dtype: fp8", "dtype is 'fp8'; expected one of 'fp32', 'bf16'"),
        ("compile: 3", "compile is 3; expected bool"),
        ("betas: [0.9]", r"betas is \[0.9\]"),
        ("- steps", "it holds a list"),
    ],
)
def test_a_value_of_another_kind_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_yaml(str(tmp_path / "wrong.yaml"), PretrainConfig)


def test_a_configuration_that_is_not_there_is_named_with_the_presets() -> None:
    with pytest.raises(ConfigError, match="There is no configuration 'nowhere'. .* presets: .*mini"):
        pretrain("--config", "nowhere")
    with pytest.raises(ConfigError, match="--config needs the name of a preset"):
        pretrain("--config")


def test_scientific_notation_without_a_point_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "lr.yaml").write_text("lr: 2e-5\n")  # which YAML reads as text
    assert read_yaml(str(tmp_path / "lr.yaml"), PretrainConfig) == {"lr": 2e-5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--config mini --steps 0", "steps is 0; it must be at least 1"),
        ("--config mini --lr -1", "lr must be positive"),
        ("--config mini --guided-fraction 1", r"guided_fraction is 1.0; it is a share of the batch in \[0, 1\)"),
        ("--steps 1 --batch-size 1", "There is no image target"),
    ],
)
def test_values_out_of_range_are_refused_when_pretraining(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(PretrainConfig, f"--data d --out o {arguments}", message, capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--vae v --drop-text 0.9 --drop-both 0.5", "they sum to at most 1"),
        ("--vae v --prediction epsilon", "zero_terminal_snr needs --prediction v"),
        ("--vae v --cuda-graph --micro-batch 2", "cuda_graph does not go with micro_batch, activation_checkpointing or compile"),
        ("", "Give either --latents .* or --vae"),
        ("--vae v --latents l", "Give either --latents .* or --vae"),
        ("--vae v --ema 1", "ema is 1.0"),
    ],
)
def test_values_out_of_range_are_refused_when_finetuning(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(FinetuneConfig, f"--config mini_sdxl {STAGE_TWO} {arguments}", message, capsys)


def refused(kind: type, command: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command line ends the process with a box around the message."""
    with pytest.raises(SystemExit) as exit_code:
        parse(kind, command.split())
    assert exit_code.value.code == 2
    assert re.search(message, " ".join(capsys.readouterr().err.replace("\N{BOX DRAWINGS LIGHT VERTICAL}", " ").split()))


def test_a_command_explains_the_errors_that_it_expects_and_no_others(capsys: pytest.CaptureFixture[str]) -> None:
    def fails(error: Exception) -> Callable[[], None]:
        def work() -> None:
            raise error

        return work

    assert run_command(lambda: None) == 0 and run_command(lambda: 3) == 3
    assert run_command(fails(ConfigError("steps is 0."))) == 1
    assert run_command(fails(OSError("The disk is full.")), OSError) == 1
    assert capsys.readouterr().err == "\nsteps is 0.\n\nThe disk is full.\n"
    with pytest.raises(OSError, match="full"):
        run_command(fails(OSError("The disk is full.")))
