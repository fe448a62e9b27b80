"""Count the GPU memory of a LoRA's training step, from SDXL's real class on the meta device, without a GPU.

    python benchmarks/lora_memory.py --rank 16 --batch 1 2 4

Sizes are of tensors, at the step's fullest moment. Attention counts as fused kernels keep it: queries, keys,
values, output and one number a query. What CUDA itself, cuDNN's workspaces and the allocator's gaps take
comes on top.
"""

from __future__ import annotations

import argparse
import sys
import weakref
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from training_common import table

from faceclip import FaceCLIPConfig, FaceCLIPEncoder
from faceclip.sdxl_files import UNET_CONFIG
from train.finetune_sdxl.lora import add_lora

STATES = {"adamw": 8, "adamw8bit": 2 + 8 / 256}
"""Bytes of optimiser state a weight: two fp32 numbers; two bytes, and two fp32 numbers for 256 weights."""


class _FusedAttention(torch.autograd.Function):
    """As much memory as a fused kernel's attention takes; values mean nothing."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


class _Fullest(TorchDispatchMode):
    """`bytes`: the most that tensors other than a model's parameters took at a time."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.bytes = self._now = 0
        self._known = {p.untyped_storage()._cdata for p in model.parameters()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._see, made)
        return made

    def _see(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self._now += storage.nbytes()
            self.bytes = max(self.bytes, self._now)
            weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())
        return tensor

    def _forget(self, number: int, size: int) -> None:
        self._known.discard(number)
        self._now -= size


def activations(rank: int, batch: int, side: int) -> int:
    """Bytes at the fullest moment of a step with recomputed blocks, beyond the weights."""
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNET_CONFIG).train()
    torch.set_default_dtype(torch.float32)
    add_lora(unet, rank, 0)
    unet.enable_gradient_checkpointing()
    plain, F.scaled_dot_product_attention = (
        F.scaled_dot_product_attention,
        lambda q, k, v, *_, **__: _FusedAttention.apply(q, k, v),
    )
    try:
        with _Fullest(unet) as fullest:
            like: Any = {"device": "meta", "dtype": torch.bfloat16}
            noisy, embeddings = torch.empty(batch, 4, side, side, **like), torch.empty(batch, 77, 2048, **like)
            added = {"text_embeds": torch.empty(batch, 1280, **like), "time_ids": torch.empty(batch, 6, device="meta")}
            predicted = unet(noisy, torch.zeros(batch, device="meta"), embeddings, added_cond_kwargs=added).sample
            predicted.float().square().mean().backward()
    finally:
        F.scaled_dot_product_attention = plain
    return fullest.bytes


def main(argv: Sequence[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description="Count the GPU memory of a LoRA's training step.")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2, 4], help="rows in a micro-batch")
    parser.add_argument("--resolution", type=int, default=1024)
    options = parser.parse_args(argv)
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNET_CONFIG)
        encoder = FaceCLIPEncoder(FaceCLIPConfig.preset("sdxl"))
    weights = sum(p.numel() for p in unet.parameters())
    matrices = sum(p.numel() for p in add_lora(unet, options.rank, 0).values())
    sizes = {
        "UNet, bf16": 2 * weights,
        "encoder, bf16": 2 * sum(p.numel() for p in encoder.parameters()),
        f"LoRA of rank {options.rank}, fp32 ({matrices / 1e6:.1f} M)": 4 * matrices,
        "its gradients, fp32": 4 * matrices,
        "its moving average, fp32": 4 * matrices,
        **{f"state of {name}": int(size * matrices) for name, size in STATES.items()},
    }
    for batch in options.batch:
        count = "1 row" if batch == 1 else f"{batch} rows"
        name = f"activations, recomputed, {count} at {options.resolution} px"
        sizes[name] = activations(options.rank, batch, options.resolution // 8)
    rows = [(name, f"{size / 1e9:.2f}") for name, size in sizes.items()]
    text = table("GPU memory of a LoRA's step of training, counted on the meta device.", ("part", "GB"), rows)
    print(text)
    return text


if __name__ == "__main__":
    main(sys.argv[1:])
