"""Count what a training step computes, from the real classes on the meta device: the numbers that docs/scaling.md starts from.

    python scripts/training_flops.py

Floating-point operations of matrix products, convolutions and attention, of one sample; no weights are needed.
"""

from __future__ import annotations

from collections.abc import Callable

import open_clip
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from faceclip import FaceCLIPConfig, FaceCLIPEncoder
from train.initialise import freeze
from train.pretrain_step import PretrainModel

TEACHERS = {"l": "ViT-L-14-quickgelu", "g": "ViT-bigG-14"}
SDXL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SDXL_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}


def gigaflops(work: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


def millions(module: nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def pretraining(branch: str) -> str:
    """One line about a branch's step and one about its teacher."""
    config = FaceCLIPConfig.preset("sdxl").only(branch)
    model = PretrainModel(FaceCLIPEncoder(config))
    trained = sum(parameter.numel() for parameter in freeze(model.branch).values()) / 1e6
    rows = (torch.zeros(1, 77, dtype=torch.long), torch.zeros(1, 1, 512), torch.zeros(1, 1, 144, 768), torch.ones(1) > 0)
    features: list[torch.Tensor] = []
    forward = gigaflops(lambda: features.extend(model(*rows)))
    backward = gigaflops(lambda: (features[0].sum() + features[1].sum()).backward())
    face = gigaflops(lambda: model.branch.face_encoder(torch.zeros(1, 3, 448, 448)))
    text = gigaflops(lambda: model.branch.encode_tokens(torch.zeros(1, 77, config.width)))
    teacher = open_clip.get_model_config(TEACHERS[branch])
    assert teacher
    tower = {"width": 64, "heads": 4, "layers": 1}
    visual = open_clip.CLIP(teacher["embed_dim"], teacher["vision_cfg"], tower).visual  # type: ignore[arg-type]
    vision = gigaflops(lambda: visual(torch.zeros(1, 3, 224, 224)))
    return (
        f"FaceCLIP-{branch}: {millions(model.encoder):.1f} M, trained {trained:.1f} M and heads {millions(model.heads):.1f} M; "
        f"forward {forward:.1f} GF, backward {backward:.1f} GF; face tower {face:.1f} GF, text tower {text:.1f} GF, "
        f"teacher {millions(visual):.0f} M, {vision:.0f} GF"
    )


def finetuning() -> str:
    """One line about SDXL at 1024 x 1024."""
    unet, vae = UNet2DConditionModel(**SDXL), AutoencoderKL(**SDXL_VAE)
    added = {"text_embeds": torch.zeros(1, 1280), "time_ids": torch.zeros(1, 6)}
    latents, steps, text = torch.zeros(1, 4, 128, 128), torch.zeros(1, dtype=torch.long), torch.zeros(1, 77, 2048)
    forward = gigaflops(lambda: unet(latents, steps, text, added_cond_kwargs=added))
    encode = gigaflops(lambda: vae.encoder(torch.zeros(1, 3, 1024, 1024)))
    return f"SDXL: UNet {millions(unet):.1f} M, forward {forward / 1e3:.2f} TF; VAE encoder {encode / 1e3:.2f} TF"


def main() -> None:
    with torch.device("meta"):
        for branch in TEACHERS:
            print(pretraining(branch))
        print(finetuning())


if __name__ == "__main__":
    main()
