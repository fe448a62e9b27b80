"""Load FaceCLIP UNet holds one copy of the weights: what it has taken from the file, it gives back."""

from __future__ import annotations

import shutil
import sys
import zipfile
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


def resident_of_its_own() -> int:
    """Bytes of memory that are this process's and of no file."""
    return int(STATM.read_text().split()[1]) * 4096 - resident_of_files()


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


@pytest.mark.skipif(not STATM.exists(), reason="what is resident is told by Linux")
@pytest.mark.parametrize("layout", [pytest.param("packed", marks=pytest.mark.program), "even", "odd", "no mmap"])
def test_what_cannot_be_mapped_is_read_tensor_by_tensor_into_its_layer(
    layout: str, run: Any, model_folder: Any, pack_module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weights = {name: tensor.half() for name, tensor in tiny_unet(block_out_channels=(64, 512)).state_dict().items()}
    path = model_folder("diffusion_models") / "read.pt"
    if layout in ("even", "odd"):  # torch's old format, where the values lie behind text of any length
        for note in ("x", "xx"):
            torch.save({"state_dict": weights, "note": note}, path, _use_new_zipfile_serialization=False)
            if (path.stat().st_size % 2 == 1) == (layout == "odd"):
                break
    else:
        torch.save(weights, path)
    if layout == "packed":
        with zipfile.ZipFile(shutil.copy(path, tmp_path / "plain.pt")) as old, zipfile.ZipFile(path, "w") as new:
            for member in old.infolist():
                new.writestr(member.filename, old.read(member), zipfile.ZIP_DEFLATED, 1)
    monkeypatch.setattr(sys.modules["comfy.utils"], "DISABLE_MMAP", layout == "no mmap")
    unet_file = sys.modules[f"{pack_module.__name__}.nodes.unet_file"]
    opened = unet_file.open_tensor_file
    found: list[int] = []

    def watched(path: Path) -> Any:
        file = opened(path)
        for entry in file.entries.values():
            object.__setattr__(entry, "read", lambda read=entry.read: (found.append(resident_of_its_own()), read())[1])
        found.append(resident_of_its_own())
        return file

    monkeypatch.setattr(unet_file, "open_tensor_file", watched)
    loaded = run("FaceCLIPUNetLoader", unet_name=path.name, weight_dtype="fp16")[0]
    assert (len(found) > 100) == (layout != "even"), "an even one is mapped"
    size, largest = (pick(tensor.nbytes for tensor in weights.values()) for pick in (sum, max))
    assert max(found) - found[0] < size + 2 * largest + (16 << 20) < 1.8 * size, "one copy, not two"
    made, names = loaded.model.diffusion_model.state_dict(), unet_file._core_names(weights)
    assert all(torch.equal(made[names[name]], tensor) for name, tensor in weights.items())
