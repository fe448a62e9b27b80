"""What training computes, counted on the real classes: floating-point
operations of matrix products, convolutions, attention.

Count on the meta device: no weights are needed, and the counts are the same for every device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from faceclip import FaceCLIPConfig, FaceCLIPEncoder
from faceclip.vae_file import SDXL_SCALE
from train.pretrain.config import PretrainConfig
from train.pretrain.model import PretrainModel, blocks_of, freeze
from train.run.blocks import checkpoint_activations

SDXL_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "scaling_factor": SDXL_SCALE,
}
"""SDXL's VAE, as arguments of diffusers' AutoencoderKL."""


@dataclass(frozen=True)
class StepFlops:
    """FLOP of one sample: its forward and its backward pass, and what is computed again in backward."""

    forward: int
    backward: int
    recomputed: int = 0

    @property
    def model(self) -> int:
        """What the gradient needs: the numerator of MFU, whatever a step computes twice to save memory."""
        return self.forward + self.backward

    def executed(self, passes: int = 1) -> int:
        """What a step computes, with `passes` forward passes (two with micro-batches in pretraining)."""
        return passes * self.forward + self.backward + self.recomputed


def flops(work: Callable[[], object]) -> int:
    """What `work` computes."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def pretraining_flops(config: PretrainConfig) -> StepFlops:
    """Of one row of pretraining with cached features: the trained path, through the frozen text tower.

    With `activation_checkpointing`, `recomputed` is the difference that it makes.
    """
    with torch.device("meta"):
        model = PretrainModel(FaceCLIPEncoder(FaceCLIPConfig.preset(config.size).only(config.branch)))
    freeze(model.branch)
    forward, backward = forward_and_backward(lambda: model(*pretraining_inputs(config, 1)))
    if not config.activation_checkpointing:
        return StepFlops(forward, backward)
    checkpoint_activations(blocks_of(model.branch))
    _, again = forward_and_backward(lambda: model(*pretraining_inputs(config, 1)))
    return StepFlops(forward, backward, again - backward)


def pretraining_inputs(config: PretrainConfig, rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `PretrainModel` takes, on the meta device."""
    branch = FaceCLIPConfig.preset(config.size).branches[config.branch]
    face = branch.face
    return (
        torch.zeros(rows, branch.text.context, dtype=torch.long, device="meta"),
        torch.zeros(rows, 1, face.classes, device="meta"),
        torch.zeros(rows, 1, face.grid**2, face.width, device="meta"),
        torch.ones(rows, dtype=torch.bool, device="meta"),
    )


def unet_flops(unet: Any, pixels: tuple[int, int], checkpointing: bool = False) -> StepFlops:
    """Of one picture through diffusers' UNet on the meta device, every weight trained."""
    width = unet.config.cross_attention_dim
    pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
    with torch.device("meta"):
        latents, steps = torch.zeros(1, 4, pixels[0] // 8, pixels[1] // 8), torch.zeros(1, dtype=torch.long)
        text, added = torch.zeros(1, 77, width), {"text_embeds": torch.zeros(1, pooled), "time_ids": torch.zeros(1, 6)}
    unet.train().requires_grad_(True)
    forward, backward = forward_and_backward(lambda: (unet(latents, steps, text, added_cond_kwargs=added).sample,))
    if not checkpointing:
        return StepFlops(forward, backward)
    unet.enable_gradient_checkpointing()
    _, again = forward_and_backward(lambda: (unet(latents, steps, text, added_cond_kwargs=added).sample,))
    return StepFlops(forward, backward, again - backward)


def forward_and_backward(model: Callable[[], tuple[Tensor, ...]]) -> tuple[int, int]:
    """FLOP of `model()` and of the backward pass from the sum of all that it gives."""
    given: list[Tensor] = []
    forward = flops(lambda: given.extend(model()))
    return forward, flops(lambda: torch.stack([tensor.sum() for tensor in given]).sum().backward())
