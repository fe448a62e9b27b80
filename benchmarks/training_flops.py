"""Count what a training step computes, from the real classes on the meta
device: the numbers that docs/scaling.md starts from.

    python benchmarks/training_flops.py

Floating-point operations of matrix products, convolutions and
attention, of one sample; no weights are needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import open_clip
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn
from training_common import SDXL_VAE

from faceclip import FaceCLIPConfig, FaceCLIPEncoder
from faceclip.sdxl_files import UNET_CONFIG
from train.finetune_sdxl.flops import unet_flops
from train.pretrain.flops import pretraining_flops
from train.pretrain.model import PretrainModel, freeze
from train.run.flops import flops
from train.run.sharding import cut

WORLDS = (8, 64, 128, 1024)
TEACHERS = {"l": "ViT-L-14-quickgelu", "g": "ViT-bigG-14"}


def millions(module: nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def fullest(parameters: Mapping[str, nn.Parameter]) -> str:
    """How many millions of the trained weights the fullest rank keeps the optimiser's state of."""
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    shares = []
    for world in WORLDS:
        load = [0] * world
        for name, owner, start, stop in cut(shapes, world):
            load[owner] += (stop - start) * math.prod(shapes[name][1:])
        shares.append(f"{max(load) / 1e6:.2f} M of {world:,} ranks ({max(load) * world / sum(load):.3f} times the mean)")
    return "; fullest rank's optimiser state: " + ", ".join(shares)


def pretraining(branch: str) -> str:
    """One line about a branch's step and one about its teacher."""
    step = pretraining_flops(FaceCLIPConfig.preset("sdxl").only(branch), checkpointing=True)
    with torch.device("meta"):
        model = PretrainModel(FaceCLIPEncoder(FaceCLIPConfig.preset("sdxl").only(branch)))
        own = freeze(model.branch)
        trained = sum(parameter.numel() for parameter in own.values()) / 1e6
        owned = fullest({**own, **{f"heads.{name}": parameter for name, parameter in model.heads.named_parameters()}})
        face = flops(lambda: model.branch.face_encoder(torch.zeros(1, 3, 448, 448)))
        text = flops(lambda: model.branch.encode_tokens(torch.zeros(1, 77, model.encoder.config.width)))
        teacher = open_clip.get_model_config(TEACHERS[branch])
        assert teacher
        tower = {"width": 64, "heads": 4, "layers": 1}
        visual = open_clip.CLIP(teacher["embed_dim"], teacher["vision_cfg"], tower).visual  # type: ignore[arg-type]
        vision = flops(lambda: visual(torch.zeros(1, 3, 224, 224)))
    return (
        f"FaceCLIP-{branch}: {millions(model.encoder):.1f} M, trained {trained:.1f} M and heads {millions(model.heads):.1f} M; "
        f"forward {step.forward / 1e9:.1f} GF, backward {step.backward / 1e9:.1f} GF, "
        f"recomputed with checkpointing {step.recomputed / 1e9:.1f} GF, a two-pass step {step.executed(passes=2) / 1e9:.0f} GF; "
        f"face tower {face / 1e9:.1f} GF, text tower {text / 1e9:.1f} GF, teacher {millions(visual):.0f} M, {vision / 1e9:.0f} GF"
        + owned
    )


def finetuning() -> str:
    """One line about SDXL at 1024 x 1024."""
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**UNET_CONFIG), AutoencoderKL(**SDXL_VAE)
        encode = flops(lambda: vae.encoder(torch.zeros(1, 3, 1024, 1024)))
    step = unet_flops(unet, (1024, 1024), checkpointing=True)
    return (
        f"SDXL: UNet {millions(unet):.1f} M, forward {step.forward / 1e12:.2f} TF, backward {step.backward / 1e12:.2f} TF, "
        f"recomputed with checkpointing {step.recomputed / 1e12:.2f} TF, a step {step.executed() / 1e12:.2f} TF; "
        f"VAE encoder {encode / 1e12:.2f} TF" + fullest(dict(unet.named_parameters()))
    )


def main() -> None:
    for branch in TEACHERS:
        print(pretraining(branch))
    print(finetuning())


if __name__ == "__main__":
    main()
