"""VAEs in one file: the shipped tiny one, and SDXL's in Stability's names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from faceclip.tensor_file import CheckpointError, write_safetensors
from faceclip.vae_file import load_vae_file

MODELS = Path(__file__).parents[2] / "models"


def stability_name(name: str) -> str:
    """What Stability's files call a tensor of diffusers' AutoencoderKL with two stages."""
    name = re.sub(r"(down|up)_blocks\.(\d)", lambda m: f"{m[1]}.{m[2] if m[1] == 'down' else 1 - int(m[2])}", name)
    name = re.sub(r"(down|up)samplers\.0", r"\1sample", name).replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name).replace("resnets", "block")
    name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm").replace("conv_norm_out", "norm_out")
    for theirs, ours in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
        name = name.replace(f"attn_1.{theirs}", f"attn_1.{ours}")
    return name


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_stabilitys_names_are_diffusers_weights(prefix: str, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AutoencoderKL(
            block_out_channels=(32, 64),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=2,
        )
    tensors = {}
    for name, tensor in vae.state_dict().items():
        attention = "attentions" in name and "norm" not in name and name.endswith("weight")
        tensors[prefix + stability_name(name)] = (tensor[:, :, None, None] if attention else tensor).contiguous()
    write_safetensors(tmp_path / "vae.safetensors", tensors, {})
    loaded = load_vae_file(tmp_path / "vae.safetensors", torch.float32)
    assert loaded.config["scaling_factor"] == 0.13025
    found = loaded.state_dict()
    assert found.keys() == vae.state_dict().keys()
    for name, tensor in vae.state_dict().items():
        assert torch.equal(found[name], tensor), name
    vae.save_pretrained(tmp_path / "folder")
    again = load_vae_file(tmp_path / "folder" / "diffusion_pytorch_model.safetensors", torch.bfloat16)
    assert torch.equal(again.state_dict()["decoder.conv_in.weight"], vae.decoder.conv_in.weight.detach().bfloat16())


@torch.no_grad()
def test_the_shipped_vae_shows_the_shipped_person() -> None:
    vae = load_vae_file(MODELS / "vae" / "zz_faceclip_mini_vae.safetensors", torch.float32)
    assert vae.config["scaling_factor"] == 1
    person = Image.open(MODELS / "people" / "ada.jpg").convert("RGB").resize((128, 128))
    pixels = pil_to_tensor(person)[None] / 127.5 - 1
    shown = vae.decode(vae.encode(pixels).latents).sample
    assert float((shown - pixels).abs().mean()) < 0.1


def test_what_is_no_vae_is_refused(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.safetensors", {"weight": torch.zeros(2)}, {})
    with pytest.raises(CheckpointError, match="a.safetensors is not a VAE: .* found weight"):
        load_vae_file(tmp_path / "a.safetensors", torch.float32)
    tiny = MODELS / "vae" / "zz_faceclip_mini_vae.safetensors"
    (tmp_path / "cut.safetensors").write_bytes(tiny.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cut.safetensors"):
        load_vae_file(tmp_path / "cut.safetensors", torch.float32)
    write_safetensors(tmp_path / "part.safetensors", {"taesd_encoder.0.bias": torch.zeros(64)}, {})
    with pytest.raises(CheckpointError, match="part.safetensors"):
        load_vae_file(tmp_path / "part.safetensors", torch.float32)
