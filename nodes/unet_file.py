"""From a UNet file to ComfyUI's ModelPatcher. The core reads what it knows; only SDXL of other sizes is built here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import comfy.model_base
import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import comfy.utils
import torch
from torch import Tensor

from ..faceclip.recognize import SDXL_CHECKPOINT, SDXL_UNET, recognize
from ..faceclip.tensor_file import CheckpointError, TensorFile, open_tensor_file
from .watch import Watch, watched_building

WEIGHT_DTYPES: Mapping[str, torch.dtype | None] = {
    "default": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
_CHECKPOINT_PREFIX = "model.diffusion_model."
_V_PREDICTION, _ZERO_TERMINAL_SNR = "v_pred", "ztsnr"  # what the core looks for


def load_unet(path: Path, dtype: torch.dtype | None) -> comfy.model_patcher.ModelPatcher:
    """Load an SDXL UNet: diffusers format or a single-file checkpoint, `.pt` or safetensors, any number of channels.

    `dtype` is what the weights are kept in; None leaves that to ComfyUI. A file that says that its UNet predicts v, as those do
    that training wrote so, is sampled so. Raises CheckpointError for a damaged file and for anything that is not SDXL, saying
    what it looks like and which loader wants it. Moves the progress bar and heeds the Cancel button.
    """
    file = open_tensor_file(path)
    kind = recognize(file.entries)
    if kind.name not in (SDXL_UNET, SDXL_CHECKPOINT):
        raise CheckpointError(f"{path} has no SDXL UNet in it: it looks like this: {kind}")
    watch, count = Watch(), len(file.entries)
    steps = 2 * count + 1  # of the bar: each tensor is read, and goes into a layer; and the end
    weights, metadata = _read(file, watch, steps)
    prefix = _CHECKPOINT_PREFIX if kind.name == SDXL_CHECKPOINT else ""
    markers = _prediction_markers(weights, metadata)
    weights = comfy.utils.state_dict_prefix_replace(weights, {prefix: ""}, filter_keys=True)
    if markers:  # the core looks for them beside its own names only
        weights = {**(_in_core_names(weights) if "conv_in.weight" in weights else weights), **markers}
    with watched_building(watch, count, steps):
        if _core_knows(weights):
            patcher = comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": dtype}, metadata=metadata)
        else:
            patcher = _load_other_size(path, weights, dtype)
    if patcher is None or not isinstance(patcher.model, comfy.model_base.SDXL):
        raise CheckpointError(
            f"{path} is no SDXL base UNet (ComfyUI reads it as {type(patcher and patcher.model).__name__}). FaceCLIP conditions "
            "SDXL base only: choose FaceCLIP's unet.pt."
        )
    return patcher


def _read(file: TensorFile, watch: Watch, steps: int) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """The file's tensors and its metadata. Of safetensors the core maps into memory what it can: that takes no time yet."""
    if file.path.suffix.lower() in (".safetensors", ".sft"):
        weights, metadata = comfy.utils.load_torch_file(str(file.path), safe_load=True, return_metadata=True)
        watch(len(file.entries), steps)
        return weights, metadata or {}
    weights = {}
    for done, (name, entry) in enumerate(file.entries.items(), 1):
        weights[name] = entry.read()
        watch(done, steps)
    return weights, file.metadata


def _prediction_markers(weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """The empty tensors by which the core knows v-prediction, and a schedule that ends in pure noise; none for epsilon.

    A file that training wrote says it in its metadata, other files have the markers themselves.
    """
    found = {name for name in (_V_PREDICTION, _ZERO_TERMINAL_SNR) if name in weights}
    if metadata.get("prediction") == "v":
        found |= {_V_PREDICTION, *([_ZERO_TERMINAL_SNR] if metadata.get("zero_terminal_snr") == "true" else [])}
    return {name: torch.empty(0) for name in found}


def _core_knows(weights: Mapping[str, Tensor]) -> bool:
    if "conv_in.weight" in weights:
        return comfy.model_detection.unet_config_from_diffusers_unet(weights) is not None
    config = comfy.model_detection.detect_unet_config(weights, "")
    return any(model.matches(config, weights) for model in comfy.supported_models.models)


def _load_other_size(path: Path, weights: dict[str, Tensor], dtype: torch.dtype | None) -> comfy.model_patcher.ModelPatcher:
    """What `comfy.sd.load_diffusion_model_state_dict` does, for an SDXL-shaped UNet with other widths than SDXL's."""
    if "conv_in.weight" in weights:
        weights = _in_core_names(weights)
    config = comfy.supported_models.SDXL(comfy.model_detection.detect_unet_config(weights, ""))
    device, supported = comfy.model_management.get_torch_device(), config.supported_inference_dtypes
    dtype = dtype or comfy.model_management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(weights),
        supported_dtypes=supported,
        weight_dtype=comfy.utils.weight_dtype(weights),
    )
    config.set_inference_dtype(dtype, comfy.model_management.unet_manual_cast(dtype, device, supported))
    model = config.get_model(weights, "").to(comfy.model_management.unet_offload_device())
    _require_whole(path, model.diffusion_model.state_dict().keys(), weights)
    model.load_model_weights(weights, "")
    patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return patcher(model, load_device=device, offload_device=comfy.model_management.unet_offload_device())


def _in_core_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A diffusers UNet's weights under the core's names."""
    names = comfy.utils.unet_to_diffusers(diffusers_layout({name: tuple(t.shape) for name, t in weights.items()}))
    return {names[name]: tensor for name, tensor in weights.items() if name in names}


def diffusers_layout(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int | list[int]]:
    """The layout of a diffusers UNet, from its names and shapes, in the terms that `comfy.utils.unet_to_diffusers` reads."""

    def numbers(pattern: str) -> int:
        return len({match[1] for name in shapes if (match := re.match(pattern, name))})

    def depth(block: str, layer: int) -> int:
        return numbers(rf"{block}\.attentions\.{layer}\.transformer_blocks\.(\d+)\.")

    levels = range(numbers(r"down_blocks\.(\d+)\."))
    layers = [numbers(rf"down_blocks\.{level}\.resnets\.(\d+)\.") for level in levels]
    width = shapes["conv_in.weight"][0]
    return {
        "num_res_blocks": layers,
        "channel_mult": [shapes[f"down_blocks.{level}.resnets.0.conv1.weight"][0] // width for level in levels],
        "transformer_depth": [depth(rf"down_blocks\.{level}", i) for level in levels for i in range(layers[level])],
        "transformer_depth_middle": depth("mid_block", 0),
        # From the shallow end to the deep one, as the core counts: diffusers' last up block first.
        "transformer_depth_output": [
            depth(rf"up_blocks\.{levels[-1] - level}", i) for level in levels for i in reversed(range(layers[level] + 1))
        ],
    }


def _require_whole(path: Path, expected: Iterable[str], weights: Mapping[str, Tensor]) -> None:
    missing = sorted(set(expected) - weights.keys())
    if missing:
        raise CheckpointError(
            f"{path} is not a whole SDXL UNet: it lacks {len(missing)} tensors, among them {missing[0]}. Download it again."
        )
