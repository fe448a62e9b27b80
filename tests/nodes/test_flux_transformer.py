"""The converted transformer is, name by name and value by value, what
the core makes of `dit.pt` while loading it."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from faceclip.flux.convert import convert_transformer

from ..flux_core import flux_transformer


def test_the_converter_renames_and_joins_as_the_core_does(comfy: object, tmp_path: Path) -> None:
    from comfy.model_detection import convert_diffusers_mmdit, detect_unet_config

    weights = flux_transformer(heads=2, head_width=16, depth=(2, 3))
    torch.save(weights, tmp_path / "dit.pt")
    convert_transformer(tmp_path / "dit.pt", tmp_path / "dit.safetensors", torch.float32)
    written, expected = load_file(tmp_path / "dit.safetensors"), convert_diffusers_mmdit(weights)
    assert expected is not None and written.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(written[name], tensor), name
    config = detect_unet_config(written, "")
    assert config["image_model"] == "flux" and config["guidance_embed"] and config["context_in_dim"] == 64
    assert (config["depth"], config["depth_single_blocks"], config["vec_in_dim"]) == (2, 3, 48)
