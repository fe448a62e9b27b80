"""Configurations of diffusers' folders: read, or named in one sentence."""

from __future__ import annotations

import json
import shutil

import pytest

from faceclip.diffusers_config import read_config
from faceclip.pipeline import FaceCLIPPipeline
from faceclip.tensor_file import CheckpointError


def load(sdxl_files, base) -> FaceCLIPPipeline:
    return FaceCLIPPipeline.from_files(sdxl_files.encoder, sdxl_files.unet, base, device="cpu")


@pytest.mark.parametrize("part", ["unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("content", [b"{oops", b"[]", b'{"a": "\xe9"}', b"[" * 100_000], ids=["cut", "a list", "latin", "deep"])
def test_a_configuration_that_is_none_is_named(part, content, sdxl_files, tmp_path):
    shutil.copytree(sdxl_files.base, tmp_path / "base")
    (tmp_path / "base" / part).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{part} is not a configuration of diffusers"):
        load(sdxl_files, tmp_path / "base")


def test_a_mark_at_its_start_is_passed_over(sdxl_files, tmp_path):
    config = tmp_path / "config.json"
    config.write_bytes(b"\xef\xbb\xbf" + (sdxl_files.base / "vae" / "config.json").read_bytes())
    assert read_config(config) == read_config(tmp_path) == read_config(sdxl_files.base / "vae")


def test_a_configuration_that_nothing_can_be_built_by_is_named(sdxl_files, tmp_path):
    shutil.copytree(sdxl_files.base, tmp_path / "base")
    config = tmp_path / "base" / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "block_out_channels": "wide"}))
    with pytest.raises(CheckpointError, match=r"cannot build a model by .*unet.config.json \(\w+Error"):
        load(sdxl_files, tmp_path / "base")
