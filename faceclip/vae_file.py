"""A VAE in one file, as ComfyUI and the hubs pass them on, for diffusers: SDXL's own, or a tiny one (TAESD)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .ops import without_values
from .tensor_file import CheckpointError, open_tensor_file, require_exact

SDXL_SCALE = 0.13025
"""What SDXL's VAE multiplies its latents with."""
_PREFIXES = ("first_stage_model.", "vae.")


def load_vae_file(path: str | Path, dtype: torch.dtype) -> Any:
    """Load an `AutoencoderKL` or an `AutoencoderTiny` from a file of weights into CPU memory, in eval mode.

    Names may be diffusers', Stability's or, of tiny ones, ComfyUI's (`taesd_encoder.0.weight`). Raises
    CheckpointError for anything else, and for weights that do not fit their names.
    """
    file = open_tensor_file(path)
    tensors = _without_prefix({name: entry.read() for name, entry in file.entries.items()})
    if any(name.startswith("taesd_") for name in tensors):
        model, names = _tiny(tensors), _tiny_names(tensors)
    elif "encoder.conv_in.weight" in tensors and "decoder.conv_in.weight" in tensors:
        model = _kl(tensors)
        own = any(name.startswith("encoder.down_blocks.") for name in tensors)
        names = tensors if own else _diffusers_names(tensors, model.config)
    else:
        raise CheckpointError(
            f"{path} is not a VAE: it has neither an encoder and a decoder in diffusers' or Stability's names nor a tiny one in "
            f"ComfyUI's; found {', '.join(sorted(tensors)[:3]) or 'nothing'}. Use sdxl_vae.safetensors, for example "
            "(`faceclip download sdxl_vae.safetensors`)."
        )
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in names.items()}
    require_exact(Path(path), found, expected, "VAE", "Use the VAE of SDXL, or one with its latents.")
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in names.items()}, assign=True)
    return model.train(False).requires_grad_(False)


def _without_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if any(name.startswith(f"{prefix}encoder.") for name in tensors):
            return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return dict(tensors)


def _kl(tensors: Mapping[str, Tensor]) -> Any:
    """The AutoencoderKL of the shape that the weights tell, without values; SDXL's in all that they do not tell."""
    first = [
        re.match(r"encoder\.(?:down|down_blocks)\.(\d+)\.(?:block|resnets)\.(\d+)\.conv1\.weight$", name) for name in tensors
    ]
    widths = {int(found[1]): tensors[found[0]].shape[0] for found in first if found}
    stages = tuple(widths[stage] for stage in sorted(widths))
    layers = 1 + max((int(found[2]) for found in first if found), default=0)
    with without_values():
        return import_module("diffusers").AutoencoderKL(
            block_out_channels=stages,
            down_block_types=("DownEncoderBlock2D",) * len(stages),
            up_block_types=("UpDecoderBlock2D",) * len(stages),
            layers_per_block=layers,
            latent_channels=tensors["decoder.conv_in.weight"].shape[1],
            scaling_factor=SDXL_SCALE,
            force_upcast=True,
        )


def _diffusers_names(tensors: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    convert = import_module("diffusers.loaders.single_file_utils").convert_ldm_vae_checkpoint
    return convert(dict(tensors), config)


def _tiny(tensors: Mapping[str, Tensor]) -> Any:
    """The AutoencoderTiny without values, its latents scaled as ComfyUI scales them for SDXL."""
    scale = float(tensors.get("vae_scale", torch.tensor(SDXL_SCALE)))
    if scale <= 0:
        raise CheckpointError(f"The tiny VAE's vae_scale is {scale}; it has to be above 0. The file is damaged.")
    with without_values():
        # Two digits: in bf16, 0.13025 is 0.1299.
        return import_module("diffusers").AutoencoderTiny(scaling_factor=round(SDXL_SCALE / scale, 2))


def _tiny_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        if found := re.match(r"taesd_(encoder|decoder)\.(\d+)\.(.+)$", name):
            side, place, rest = found.groups()
            # ComfyUI's decoder begins with the clamp that diffusers applies outside of its layers.
            renamed[f"{side}.layers.{int(place) - (side == 'decoder')}.{rest}"] = tensor
    return renamed
