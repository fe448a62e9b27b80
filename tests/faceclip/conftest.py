"""Small real models for the library's tests: a mini encoder, and an
SDXL-shaped UNet and VAE that take its conditioning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from faceclip import FaceCLIPConfig, FaceCLIPEncoder


@dataclass(frozen=True)
class SDXLFiles:
    """What `FaceCLIPPipeline.from_files` takes: the encoder's file, the
    UNet's (as released: a torch file), the base's folder."""

    encoder: Path
    unet: Path
    base: Path


@pytest.fixture(scope="session")
def sdxl_files(tmp_path_factory: pytest.TempPathFactory) -> SDXLFiles:
    """Files of a complete small FaceCLIP-SDXL with random weights, in the released formats."""
    from diffusers import EulerDiscreteScheduler

    folder = tmp_path_factory.mktemp("sdxl")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder, unet, vae = _encoder(), _unet(), _vae()
    encoder.save(folder / "encoder.safetensors")
    torch.save(unet.state_dict(), folder / "unet.pt")
    base = folder / "base"
    unet.save_config(base / "unet")
    vae.save_pretrained(base / "vae")
    EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
    ).save_pretrained(base / "scheduler")
    return SDXLFiles(folder / "encoder.safetensors", folder / "unet.pt", base)


def _encoder() -> FaceCLIPEncoder:
    encoder = FaceCLIPEncoder(FaceCLIPConfig.preset("mini"))
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if name.endswith(("gamma_v", "gamma_l")):  # a trained model's layer scales let the face through
                parameter.fill_(1.0)
    return encoder.eval()


def _unet():
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        cross_attention_dim=80,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=48 + 6 * 8,
    ).eval()


def _vae():
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=0.13025,
    ).eval()
