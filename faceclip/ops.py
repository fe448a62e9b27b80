"""How weights meet activations of another dtype.

Every module that owns weights takes an `operations` namespace (Linear, LayerNorm, Conv2d, Embedding):
`torch.nn`, ComfyUI's `comfy.ops.manual_cast`, or `casting` below. Parameters that no such layer owns go
through `cast` where they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def cast(parameter: Tensor, like: Tensor) -> Tensor:
    """`parameter` in the dtype and on the device of the activation `like`; itself when nothing differs."""
    return parameter.to(device=like.device, dtype=like.dtype)


def normal(*shape: int, std: float) -> nn.Parameter:
    """A parameter with values of mean 0 and deviation `std`; on the meta device, without any."""
    values = torch.empty(shape)
    return nn.Parameter(values if values.is_meta else values.normal_(std=std))


@contextmanager
def without_values() -> Iterator[None]:
    """Networks that are made meanwhile have shapes and no values (they are on the meta device).

    Nothing is drawn for them either, as `torch.device("meta")` alone would have
    it: that imports torch's compiler, in more than a second.
    """
    with torch.device("meta"), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", None) == nn.init.__name__:
            return (kwargs or {}).get("tensor", *args[:1])
        return func(*args, **(kwargs or {}))


class CastingLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, cast(self.weight, x), None if self.bias is None else cast(self.bias, x))


class CastingLayerNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, cast(self.weight, x), cast(self.bias, x), self.eps)


class CastingConv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, cast(self.weight, x), None if self.bias is None else cast(self.bias, x))


class casting:  # noqa: N801  a namespace like `torch.nn`
    """Layers that compute in the dtype of their input, whatever dtype their weights are kept in."""

    Linear = CastingLinear
    LayerNorm = CastingLayerNorm
    Conv2d = CastingConv2d
    Embedding = nn.Embedding


class FrozenBatchNorm(nn.Module):
    """BatchNorm in eval mode, always: the ArcFace tower is frozen wherever FaceCLIP uses it. x: [B, C]."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 2e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = cast(self.running_mean, x), cast(self.running_var, x)
        return F.batch_norm(x, mean, variance, cast(self.weight, x), cast(self.bias, x), training=False, eps=self.eps)


def computes_natively(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether matrix products in `dtype` are fast on `device`: a CPU without bf16 or fp16 instructions is some 7x
    slower in them than in fp32, so there weights are better kept small and multiplied in fp32."""
    if dtype == torch.float32 or device.type != "cpu":
        return True
    probes = {torch.bfloat16: "_is_avx512_bf16_supported", torch.float16: "_is_amx_fp16_supported"}
    probe = getattr(torch.cpu, probes.get(dtype, ""), None)
    return bool(probe and probe())


def chosen(
    dtype: torch.dtype, device: torch.device, compute_dtype: torch.dtype | None, operations: Any
) -> tuple[torch.dtype, Any]:
    """In which dtype to compute with weights kept in `dtype`, and by which
    layers, where the caller leaves them open (None)."""
    compute_dtype = compute_dtype or (dtype if computes_natively(dtype, device) else torch.float32)
    return compute_dtype, operations or (nn if compute_dtype == dtype else casting)
