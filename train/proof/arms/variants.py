"""The encoders and the UNet that the arms of the proof are made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from faceclip import FaceCLIPConfig, FaceCLIPEncoder, Identity
from faceclip.model.branch import BranchOutput

from ...frozen.towers import load_face_tower, load_text_tower, new_encoder
from ...pretrain.config import PretrainConfig
from ..plan import Variant


class FusedTokenEncoder(FaceCLIPEncoder):
    """Identity reaches the prompt through its identity token alone: the
    fusion module sees a black crop's face patches."""

    def forward(self, input_ids: Tensor, identity: Identity) -> dict[str, BranchOutput]:
        blank = self.blank_face().patch_tokens.to(identity.patch_tokens)
        patches = blank.expand(len(identity), -1, -1, -1)
        return super().forward(input_ids, replace(identity, patch_tokens=patches))


def starting_encoder(config: PretrainConfig, variant: Variant) -> FaceCLIPEncoder:
    """The encoder that an arm starts from.

    `release` and `fused token` start from the very weights that `train.pretrain` does.
    """
    if variant == "plain":
        return _plain(config)
    encoder = new_encoder(config, config.dropout)
    return as_variant(encoder, variant)


def as_variant(encoder: FaceCLIPEncoder, variant: Variant) -> FaceCLIPEncoder:
    """The same weights, read as the variant reads them.

    A file's configuration tells plain attention, but no fused token.
    """
    if variant != "fused token":
        return encoder
    fused = FusedTokenEncoder(encoder.config)
    fused.load_state_dict(encoder.state_dict())
    return fused


def load_variant(path: Path, variant: Variant) -> FaceCLIPEncoder:
    """An encoder file, in eval mode and without gradients."""
    return as_variant(FaceCLIPEncoder.from_file(path), variant).eval().requires_grad_(False)


def new_unet(encoder: FaceCLIPConfig, widths: tuple[int, ...], size: int, seed: int) -> Any:
    """An untrained UNet of SDXL's kind for latents of `size` px and the conditioning of an encoder."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    time_width = 32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DConditionModel(
            sample_size=size,
            block_out_channels=widths,
            down_block_types=("CrossAttnDownBlock2D",) * len(widths),
            up_block_types=("CrossAttnUpBlock2D",) * len(widths),
            layers_per_block=1,
            norm_num_groups=8,
            attention_head_dim=4,
            cross_attention_dim=encoder.width,
            transformer_layers_per_block=1,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=time_width,
            projection_class_embeddings_input_dim=encoder.pooled_width + 6 * time_width,
        )


def _plain(config: PretrainConfig) -> FaceCLIPEncoder:
    """As `new_encoder`, with the paper's self-attention of face patches, which no preset has."""
    branch = FaceCLIPConfig.preset(config.size).branches[config.branch]
    fusion = replace(branch.fusion, dropout=config.dropout, face_attention="plain")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        encoder = FaceCLIPEncoder(FaceCLIPConfig({config.branch: replace(branch, fusion=fusion)}))
    load_text_tower(encoder.branches[config.branch], Path(config.init_clip))
    assert config.init_face
    load_face_tower(encoder.branches[config.branch], config.init_face)
    return encoder
