"""From a UNet file to ComfyUI's ModelPatcher.

The core reads what it knows; only SDXL of other sizes is built here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import comfy.model_base
import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import comfy.utils
import torch
from torch import Tensor

from ..faceclip.tensor_file import CheckpointError, Entry, TensorFile, open_tensor_file
from ..faceclip.unet_names import V_PREDICTION, ZERO_TERMINAL_SNR, prediction_in, unet_in
from .watch import Watch, watched_building

Found = TypeVar("Found")

WEIGHT_DTYPES: Mapping[str, torch.dtype | None] = {
    "default": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}


def load_unet(path: Path, dtype: torch.dtype | None) -> comfy.model_patcher.ModelPatcher:
    """Load an SDXL UNet: diffusers format or a single-file checkpoint, `.pt` or safetensors, any number of channels.

    `dtype` is what the weights are kept in; None leaves that to ComfyUI. A file that says that its UNet predicts
    v, as those do that training wrote so, is sampled so. Raises CheckpointError for a damaged file and for
    anything that is not SDXL, saying what it looks like and which loader wants it. Moves the progress bar and
    stops on Cancel.
    """
    whole = open_tensor_file(path)
    file = unet_in(whole)
    weights, later = _seen(file)
    watch, steps = Watch(), len(weights) + len(later) + 1  # of the bar: each goes into a layer; those read later; and the end
    markers = _prediction_markers(whole)
    _require_whole(path, weights)
    names = _core_names(weights)
    if markers:  # the core looks for them beside its own names only
        weights = {**_renamed(weights, names), **markers}
    known = _core_knows(weights)
    try:
        with watched_building(watch, steps, _letting_go(file)):
            if known:
                options = {"dtype": dtype}
                patcher = comfy.sd.load_diffusion_model_state_dict(weights, model_options=options, metadata=dict(file.metadata))
            else:
                patcher = _load_other_size(weights, dtype)
    except RuntimeError as error:
        if "size mismatch" not in str(error):
            raise
        wrong = str(error).partition("size mismatch for ")[2].partition(". ")[0]
        raise CheckpointError(f"{path} does not fit an SDXL UNet: {wrong}. Download it again.") from error
    if patcher is None or not isinstance(patcher.model, comfy.model_base.SDXL):
        raise CheckpointError(
            f"{path} is not an SDXL base UNet (ComfyUI reads it as {type(patcher and patcher.model).__name__}). FaceCLIP "
            "conditions SDXL base only: choose FaceCLIP's unet.pt."
        )
    made = patcher.model.diffusion_model.state_dict()
    for done, (name, entry) in enumerate(_renamed(later, names).items(), steps - len(later)):
        watch(done, steps)
        if name in made:
            made[name].copy_(entry.read())
    watch(steps, steps)
    return patcher


def _seen(file: TensorFile) -> tuple[dict[str, Tensor], dict[str, Entry]]:
    """The file's tensors, seen where they lie in it: the core copies each into its layer.

    Those that do not lie so have no values here: read now, all of them would be in memory beside the network.
    They, and with --disable-mmap every tensor, are named besides, to be read one by one into what the core has
    made.
    """
    read = getattr(comfy.utils, "DISABLE_MMAP", False)
    later = {name: entry for name, entry in file.entries.items() if read or entry.view is None}
    weights = {
        name: torch.empty(entry.shape, dtype=entry.dtype) if name in later else entry.mapped()
        for name, entry in file.entries.items()
    }
    return weights, later


def _letting_go(file: TensorFile) -> Callable[[], None]:
    """Gives back the memory of what the core has copied: else all of the file stays in it, beside the network."""
    found = {entry.let_go for entry in file.entries.values() if entry.let_go}

    def let_all_go() -> None:
        for let_go in found:
            let_go()

    return let_all_go


def _prediction_markers(file: TensorFile) -> dict[str, Tensor]:
    """The empty tensors by which the core knows v-prediction, and a schedule that ends in pure noise.

    None for epsilon.

    A file that training wrote says it in its metadata, other files have the markers themselves.
    """
    found = prediction_in(file)
    if found is None or found.kind != "v":
        return {}
    return {name: torch.empty(0) for name in (V_PREDICTION, *([ZERO_TERMINAL_SNR] if found.zero_terminal_snr else []))}


def _core_knows(weights: Mapping[str, Tensor]) -> bool:
    if "conv_in.weight" in weights:
        return comfy.model_detection.unet_config_from_diffusers_unet(weights) is not None
    config = comfy.model_detection.detect_unet_config(weights, "")
    return any(model.matches(config, weights) for model in comfy.supported_models.models)


def _load_other_size(weights: dict[str, Tensor], dtype: torch.dtype | None) -> comfy.model_patcher.ModelPatcher:
    """What `comfy.sd.load_diffusion_model_state_dict` does, for an SDXL-shaped UNet with other widths than SDXL's."""
    weights = _renamed(weights, _core_names(weights))
    config = comfy.supported_models.SDXL(comfy.model_detection.detect_unet_config(weights, ""))
    device, supported = comfy.model_management.get_torch_device(), config.supported_inference_dtypes
    dtype = dtype or comfy.model_management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(weights),
        supported_dtypes=supported,
        weight_dtype=comfy.utils.weight_dtype(weights),
    )
    config.set_inference_dtype(dtype, comfy.model_management.unet_manual_cast(dtype, device, supported))
    model = config.get_model(weights, "").to(comfy.model_management.unet_offload_device())
    model.load_model_weights(weights, "")
    patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return patcher(model, load_device=device, offload_device=comfy.model_management.unet_offload_device())


def _core_names(weights: Mapping[str, Tensor]) -> Mapping[str, str]:
    """The core's names of a UNet's weights, in whichever naming they come."""
    if "conv_in.weight" not in weights:
        return {name: name for name in weights}
    return comfy.utils.unet_to_diffusers(diffusers_layout({name: tuple(t.shape) for name, t in weights.items()}))


def _renamed(found: Mapping[str, Found], names: Mapping[str, str]) -> dict[str, Found]:
    return {names[name]: tensor for name, tensor in found.items() if name in names}


def diffusers_layout(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int | list[int]]:
    """The layout of a diffusers UNet, from its names and shapes, in the
    terms that `comfy.utils.unet_to_diffusers` reads."""

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


def _mirrored(weights: Mapping[str, Tensor], levels: int) -> bool:
    """Whether each level of a diffusers UNet has attention on its way up if
    it has on its way down, as SDXL's all do."""
    ways = [
        [any(n.startswith(f"{way}_blocks.{i}.attentions.") for n in weights) for i in range(levels)] for way in ("down", "up")
    ]
    return ways[0] == ways[1][::-1]


def _require_whole(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError where a tensor of the UNet is not in the file:
    the core would leave it zero, or at random."""
    try:
        diffusers = "conv_in.weight" in weights
        if diffusers:
            layout: Any = comfy.model_detection.unet_config_from_diffusers_unet(weights)
            layout = layout or diffusers_layout({name: tuple(t.shape) for name, t in weights.items()})
        else:
            layout = comfy.model_detection.detect_unet_config(weights, "")
        if diffusers and not _mirrored(weights, len(layout["channel_mult"])):
            raise KeyError("attentions")
        names, last = comfy.utils.unet_to_diffusers(layout), len(layout["channel_mult"]) - 1
    except (KeyError, IndexError, TypeError, AttributeError) as error:  # what the layout is told from is missing itself
        raise CheckpointError(f"{path} is not a whole SDXL UNet: its layers do not fit each other. Download it again.") from error
    # Names that this layout has no tensor for, or need not have one.
    others = ("class_embedding.", "conv_shortcut.", f"down_blocks.{last}.downsamplers.", f"up_blocks.{last}.upsamplers.")
    expected = {own if diffusers else core for own, core in names.items() if not any(part in own for part in others)}
    for name, tensor in weights.items():  # where its channels change, a block has a way around
        for first, around in ((".conv1.weight", ".conv_shortcut"), (".in_layers.2.weight", ".skip_connection")):
            if name.endswith(first) and tensor.ndim > 1 and tensor.shape[0] != tensor.shape[1]:
                expected |= {f"{name.removesuffix(first)}{around}.{part}" for part in ("weight", "bias")}
    missing = sorted(expected - weights.keys())
    if missing:
        raise CheckpointError(
            f"{path} is not a whole SDXL UNet: it lacks {len(missing)} of {len(expected)} tensors, among them {missing[0]}. "
            "It may be one part of several, or a download that was cut: put all parts together, or download it again."
        )
