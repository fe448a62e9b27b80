"""The UNet that finetuning starts from: a file of weights and its configuration."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from faceclip.tensor_file import CheckpointError
from train.finetune_sdxl.command import build
from train.finetune_sdxl.config import FinetuneConfig
from train.run.command_line import parse
from train.run.ranks import Ranks


def test_a_unet_of_another_shape_without_its_configuration_is_told_how_to_name_it(
    finetune_command: Callable[..., list[str]], unet: Path, tmp_path: Path
) -> None:
    alone = shutil.copy(unet, tmp_path / "alone.safetensors")
    config = replace(parse(FinetuneConfig, finetune_command(tmp_path / "run", steps=1, unet=alone)), unet_config=None)
    with pytest.raises(CheckpointError, match=r"read by SDXL base's configuration: name .*config.json with --unet-config"):
        build(config, Ranks(0, 1, torch.device("cpu")))
