"""Low-rank adaptation of SDXL's UNet (LoRA, arXiv 2106.09685): what is trained, and the file that it becomes.

Every linear layer of TARGETS computes W x + B A x, with W frozen. peft puts the matrices in, as it does for
diffusers. The file has the names of kohya's scripts, which ComfyUI's Load LoRA and diffusers both read. Of
peft's own names (`unet.….to_q.lora_A.weight`) ComfyUI 0.3.75 reads none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from faceclip.tensor_file import write_safetensors

from ..run.checkpointing import ResumeError, SavedState
from ..run.config import ConfigError
from ..run.optional import optional
from .config import FinetuneConfig

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""Queries, keys, values and output of every self- and cross-attention, as in diffusers' own script for SDXL."""
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


def add_lora(unet: Any, rank: int, seed: int) -> dict[str, nn.Parameter]:
    """Put low-rank matrices of `rank` into a diffusers UNet and freeze all else; returns them by name, in fp32.

    `MODULE.lora_A.weight` [rank, in] is drawn from `seed`, `MODULE.lora_B.weight` [out, rank] is zero: the UNet
    computes at first exactly what it did. alpha is the rank, so nothing is scaled. Raises ConfigError where peft
    is missing, and for a rank above the narrowest layer's width.
    """
    peft = optional("peft", "--lora")
    narrowest = min(min(layer.weight.shape) for name, layer in unet.named_modules() if name.endswith(TARGETS))
    if rank > narrowest:
        raise ConfigError(f"lora is {rank}, and the UNet's narrowest layer is {narrowest} wide: a rank is at most that.")
    unet.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet.add_adapter(peft.LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(TARGETS)))
    trained = {name.replace(".default.", "."): p for name, p in unet.named_parameters() if p.requires_grad}
    for parameter in trained.values():
        parameter.data = parameter.data.float()
    return trained


def write_lora(path: Path, weights: Mapping[str, Tensor], dtype: torch.dtype, metadata: Mapping[str, str]) -> None:
    """Write matrices, named as `add_lora` names them, to one file under kohya's names."""
    tensors = {}
    for name, tensor in weights.items():
        module, kind = _parted(name)
        stem = "lora_unet_" + module.replace(".", "_")
        tensors[f"{stem}.{'lora_down' if kind == _DOWN else 'lora_up'}.weight"] = tensor.detach().to(dtype).contiguous()
        if kind == _DOWN:
            tensors[f"{stem}.alpha"] = torch.tensor(float(len(tensor)))
    write_safetensors(path, tensors, {"format": "pt", **metadata})


def merge_lora(unet: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A UNet's tensors with the matrices added to them, in fp32 where they are. Raises KeyError for another UNet's."""
    merged = dict(unet)
    for name, up in weights.items():
        module, kind = _parted(name)
        if kind == _UP:
            down = weights[module + _DOWN]
            merged[f"{module}.weight"] = unet[f"{module}.weight"].float() + up.float() @ down.float()
    return merged


def require_same_training(saved: SavedState, config: FinetuneConfig) -> None:
    """Raise ResumeError unless a checkpoint's run trained what the configuration asks for, by the same optimiser.

    That is the whole UNet, or a LoRA of the same rank.
    """
    shapes = saved.shapes
    ranks = {shape[0] for name, shape in shapes.items() if name.startswith("lora.") and name.endswith(_DOWN)}
    found = min(ranks) if ranks else None
    if found != config.lora:
        whose = "is of a run that trains the whole UNet" if found is None else f"is of a run with --lora {found}"
        asked = "this one is to train the whole UNet" if config.lora is None else f"this one has --lora {config.lora}"
        advice = "leave --lora out" if found is None else f"give --lora {found}"
        raise ResumeError(f"The checkpoint in {config.out} {whose}, and {asked}. To go on, {advice}; or give another --out.")
    eight = any(name.startswith("optimizer.") and name.endswith(".state1") for name in shapes)
    if eight != (config.optimizer == "adamw8bit"):
        before = "adamw8bit" if eight else "adamw"
        raise ResumeError(
            f"The checkpoint in {config.out} is of a run with --optimizer {before}, whose state does not fit {config.optimizer}. "
            f"To go on, give --optimizer {before}; or give another --out."
        )


def lora_names(names: Iterable[str]) -> list[str]:
    """Those of `names` that are matrices of a LoRA."""
    return [name for name in names if name.endswith((_DOWN, _UP))]


def _parted(name: str) -> tuple[str, str]:
    kind = _DOWN if name.endswith(_DOWN) else _UP
    return name.removesuffix(kind), kind
