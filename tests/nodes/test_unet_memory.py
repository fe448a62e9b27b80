"""Load FaceCLIP UNet holds one copy of the weights: what it has taken from the file, it gives back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from .test_unet import tiny_unet

STATM = Path("/proc/self/statm")


def resident_of_files() -> int:
    """Bytes of mapped files that are in this process's memory."""
    return int(STATM.read_text().split()[2]) * 4096


@pytest.mark.skipif(not STATM.exists(), reason="what is resident is told by Linux")
@pytest.mark.parametrize(("layout", "weight_dtype"), [("pt", "fp16"), ("pt", "fp8_e4m3fn"), ("safetensors", "default")])
def test_no_more_of_the_file_than_a_few_layers_is_in_memory(
    layout: str, weight_dtype: str, run: Any, model_folder: Any, pack_module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = {name: tensor.half() for name, tensor in tiny_unet(block_out_channels=(64, 512)).state_dict().items()}
    path = model_folder("diffusion_models") / f"memory.{layout}"
    save_file(weights, path) if layout == "safetensors" else torch.save(weights, path)
    bytes_of = sys.modules[f"{pack_module.__name__}.faceclip.tensor_entry"].Bytes
    let_go: Callable[[Any], None] = bytes_of.let_go
    found: list[int] = []

    def watched(self: Any) -> None:
        found.append(resident_of_files())
        let_go(self)

    monkeypatch.setattr(bytes_of, "let_go", watched)
    loaded = run("FaceCLIPUNetLoader", unet_name=path.name, weight_dtype=weight_dtype)[0]
    assert len(found) > 100  # layers
    largest, size = max(tensor.nbytes for tensor in weights.values()), path.stat().st_size
    assert largest + (4 << 20) < size / 3  # else it would show nothing
    assert max(found) - found[0] < largest + (4 << 20)  # Linux brings in neighbouring pages, and some of libraries
    expected = {"fp16": torch.float16, "fp8_e4m3fn": torch.float8_e4m3fn, "default": torch.float32}[weight_dtype]
    first = loaded.model.diffusion_model.input_blocks[0][0].weight
    assert first.dtype == expected and torch.equal(first.float(), weights["conv_in.weight"].to(expected).float())
