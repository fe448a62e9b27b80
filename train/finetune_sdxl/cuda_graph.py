"""A UNet's step as one CUDA graph: small UNets wait for Python to launch their kernels, not for the GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class GraphedUNet:
    """`unet(noisy, timesteps, embeddings, pooled, time_ids)`, forward and
    backward replayed from a graph per shape of latents.

    Gradients lie in the graph's own memory and are overwritten by the next backward pass: one pass per update.
    """

    def __init__(self, unet: nn.Module):
        self._unet = unet
        self._graphs: dict[tuple[int, ...], Any] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        shape = tuple(inputs[0].shape)
        if shape not in self._graphs:
            like = tuple(t.detach().clone().requires_grad_(t.requires_grad) for t in inputs)
            self._graphs[shape] = torch.cuda.make_graphed_callables(_Positional(self._unet), like)
        return self._graphs[shape](*inputs)


class _Positional(nn.Module):
    """The UNet with all inputs by position, as graphs take them."""

    def __init__(self, unet: nn.Module):
        super().__init__()
        self.unet = unet

    def forward(self, noisy: Tensor, timesteps: Tensor, embeddings: Tensor, pooled: Tensor, time_ids: Tensor) -> Tensor:
        added = {"text_embeds": pooled, "time_ids": time_ids}
        return self.unet(noisy, timesteps, embeddings, added_cond_kwargs=added).sample
