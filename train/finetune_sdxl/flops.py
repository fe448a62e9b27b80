"""What a picture costs a UNet."""

from __future__ import annotations

from typing import Any

import torch

from ..run.flops import StepFlops, forward_and_backward


def unet_flops(unet: Any, pixels: tuple[int, int], checkpointing: bool = False) -> StepFlops:
    """Of one picture of height and width `pixels` through diffusers' UNet on the meta device.

    Gradients are those of what is trained. With `checkpointing`, `recomputed` is the difference that it makes.
    """
    dtype = next(unet.parameters()).dtype
    width = unet.config.cross_attention_dim
    pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
    with torch.device("meta"):
        latents, steps = torch.zeros(1, 4, pixels[0] // 8, pixels[1] // 8, dtype=dtype), torch.zeros(1, dtype=torch.long)
        text = torch.zeros(1, 77, width, dtype=dtype)
        added = {"text_embeds": torch.zeros(1, pooled, dtype=dtype), "time_ids": torch.zeros(1, 6)}
    unet.train()
    forward, backward = forward_and_backward(lambda: (unet(latents, steps, text, added_cond_kwargs=added).sample,))
    if not checkpointing:
        return StepFlops(forward, backward)
    unet.enable_gradient_checkpointing()
    _, again = forward_and_backward(lambda: (unet(latents, steps, text, added_cond_kwargs=added).sample,))
    return StepFlops(forward, backward, again - backward)
