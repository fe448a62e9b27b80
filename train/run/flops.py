"""What training computes, and what a device could compute in the same time.

Floating-point operations are those of matrix products, convolutions and attention.

Counted on the meta device: no memory is taken, and the counts are the same for every device.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

PEAKS = {
    "B200": 2250,
    "GH200": 989,
    "H200": 989,
    "H100 PCIE": 756,
    "H100 NVL": 835,
    "H100": 989,  # SXM calls itself H100 80GB HBM3
    "H800": 989,
    "A100": 312,
    "A800": 312,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "A40": 150,
    "A30": 165,
    "A10G": 70,
    "A10": 125,
    "RTX A6000": 155,
    "RTX 6000 ADA": 364,
    "RTX 5090": 210,
    "RTX 4090": 165,
    "RTX 3090": 71,
    "MI300X": 1307,
    "MI325X": 1307,
}
"""TFLOP/s in bf16, dense, with sums in fp32, from the makers' data sheets; by words of the device's name.

The first that fits counts.
"""

Module = TypeVar("Module", bound=nn.Module)


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


def forward_and_backward(model: Callable[[], tuple[Tensor, ...]]) -> tuple[int, int]:
    """FLOP of `model()` and of the backward pass from the sum of all that it gives."""
    given: list[Tensor] = []
    forward = flops(lambda: given.extend(model()))
    return forward, flops(lambda: torch.stack([tensor.sum() for tensor in given]).sum().backward())


def on_meta(module: Module) -> Module:
    """A copy with tensors that have shapes and no values, trained where the module's are.

    To be taken before blocks are compiled or recomputed: what they then do is not what is to be counted.
    """
    known: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        known[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(module, known)


def peak_flops(device: torch.device, dtype: torch.dtype, stated: float = 0.0) -> float:
    """FLOP/s that a device could do at most: `stated` TFLOP/s, or what the table knows of it in bf16.

    0 where nobody knows.
    """
    if stated:
        return stated * 1e12
    if device.type != "cuda" or dtype != torch.bfloat16:
        return 0.0
    return known_peak(torch.cuda.get_device_name(device)) * 1e12


def known_peak(name: str) -> float:
    """TFLOP/s of the device of this name, by `PEAKS`; 0 for one that is not in it."""
    words = f" {name.upper().replace('-', ' ')} "
    slower = " LAPTOP " in words or " MAX Q " in words  # the same name and another chip
    return 0 if slower else next((peak for key, peak in PEAKS.items() if f" {key} " in words), 0)
