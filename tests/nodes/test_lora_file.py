"""A LoRA as `train.finetune_sdxl --lora` writes it, on the UNet of Load FaceCLIP UNet, by the core's Load LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from train.finetune_sdxl.lora import add_lora, merge_lora, write_lora
from train.run.command_line import PRESETS

pytest.importorskip("peft", reason="LoRA needs the extra `lora`")

UNET = Path(__file__).resolve().parents[2] / "models" / "faceclip" / "faceclip_mini_unet.safetensors"


@pytest.fixture(scope="module")
def matrices() -> dict[str, torch.Tensor]:
    """A LoRA of rank 4 on the mini UNet, of which no matrix is zero."""
    from faceclip.sdxl_files import load_unet

    found = add_lora(load_unet(UNET, PRESETS / "mini_unet.json", torch.float32), 4, 0)
    random = torch.Generator().manual_seed(1)
    return {name: p.detach() if "lora_A" in name else 0.1 * torch.randn(p.shape, generator=random) for name, p in found.items()}


def test_the_core_reads_every_matrix_and_paints_as_the_merged_unet_does(
    model: Any, core: Any, run: Any, model_folder: Any, sample: Any, prompt: Any, matrices: dict[str, torch.Tensor]
) -> None:
    write_lora(model_folder("loras") / "ours.safetensors", matrices, torch.float32, {})
    base = load_file(UNET)
    merged = {name: tensor.half().contiguous() for name, tensor in merge_lora(base, matrices).items()}
    save_file(merged, model_folder("faceclip") / "merged.safetensors", {"prediction": "v", "zero_terminal_snr": "true"})
    positive, negative = prompt("a man"), prompt("blurry")
    plain = sample(model, positive, negative)

    def with_strength(strength: float) -> Any:
        return core.LoraLoaderModelOnly().load_lora_model_only(model, "ours.safetensors", strength)[0]

    assert len(with_strength(1.0).patches) == len(matrices) // 2
    assert torch.equal(sample(with_strength(0.0), positive, negative), plain)
    styled = sample(with_strength(1.0), positive, negative)
    expected = sample(run("FaceCLIPUNetLoader", unet_name="merged.safetensors")[0], positive, negative)
    assert (styled - plain).norm() > 0.1 * plain.norm()
    assert (styled - expected).norm() < 0.02 * (styled - plain).norm()


def test_of_the_names_that_diffusers_writes_the_core_reads_none(
    model: Any, core: Any, model_folder: Any, matrices: dict[str, torch.Tensor]
) -> None:
    """Why the file has kohya's names. When a newer core reads these, too, nothing is lost."""
    save_file({f"unet.{name}": tensor for name, tensor in matrices.items()}, model_folder("loras") / "theirs.safetensors")
    found = core.LoraLoaderModelOnly().load_lora_model_only(model, "theirs.safetensors", 1.0)[0]
    assert len(found.patches) in (0, len(matrices) // 2)
