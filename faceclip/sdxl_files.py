"""The parts of SDXL that generation needs, from local files in diffusers' layout, with clear errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from .diffusers_config import built_by, read_config
from .model.encoder import FaceCLIPEncoder
from .ops import without_values
from .tensor_file import CheckpointError, Entry, TensorFile, open_tensor_file, require_exact
from .unet_names import V_PREDICTION, ZERO_TERMINAL_SNR, Prediction, prediction_in, unet_in
from .vae_file import load_vae_file

SDXL_BASE = "stabilityai/stable-diffusion-xl-base-1.0"

_BASE_FILES = ("unet/config.json", "vae/config.json", "scheduler/scheduler_config.json")


UNET_CONFIG: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
"""SDXL base's UNet, as arguments of diffusers' UNet2DConditionModel."""
SCHEDULER_CONFIG: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}
"""SDXL base's schedule, as arguments of diffusers' EulerDiscreteScheduler."""


UNET_ADVICE = (
    f"Use the released unet.pt with {SDXL_BASE}, or for a UNet of another shape lay its own config.json beside the file."
)
"""For a file whose tensors are not those of its configuration."""


def unet_config_beside(path: str | Path) -> str | Path | Mapping[str, Any]:
    """The configuration of a UNet's file: the `config.json` beside it, as training writes it, else SDXL base's."""
    beside = Path(path).parent / "config.json"
    return beside if beside.is_file() and not Path(path).is_dir() else UNET_CONFIG


def load_unet(path: str | Path, config: str | Path | Mapping[str, Any], dtype: torch.dtype, advice: str = UNET_ADVICE) -> Any:
    """Load a diffusers-format UNet (`UNet2DConditionModel`) into CPU memory, in eval mode.

    path: a file of weights, whose shape `config` (a diffusers `config.json`, or what it says) tells, or a
    diffusers folder with its own. Raises CheckpointError, which says what the file looks like, with `advice`
    where its tensors are not those of `config`.
    """
    model = import_module("diffusers").UNet2DConditionModel
    if Path(path).is_dir():
        return load_model(model, Path(path), dtype)
    file = _without_markers(_open_unet(path))
    return fill(model, config, file.path, file.entries, dtype, "UNet", advice)


def fill(
    model: Any,
    config: str | Path | Mapping[str, Any],
    path: Path,
    entries: Mapping[str, Entry],
    dtype: torch.dtype,
    what: str,
    advice: str,
) -> Any:
    """`model`, a diffusers class, of the shape that `config` tells, with a file's tensors, in eval mode.

    Raises CheckpointError, naming `what` it is and giving `advice`, where the tensors do not fit.
    """
    described = read_config(config)
    with built_by(config), without_values():
        filled = model.from_config(described)
    expected = {name: tuple(tensor.shape) for name, tensor in filled.state_dict().items()}
    require_exact(path, {name: entry.shape for name, entry in entries.items()}, expected, what, advice)
    filled.load_state_dict({name: entry.read().to(dtype) for name, entry in entries.items()}, assign=True)
    return filled.train(False).requires_grad_(False)


def unet_prediction(path: str | Path) -> Prediction | None:
    """What the UNet of a file, or of a diffusers folder, says that it predicts; None if it says nothing.

    Raises CheckpointError for a file that cannot be read, and for a prediction of another kind.
    """
    weights = sorted(Path(path).glob("*.safetensors")) if Path(path).is_dir() else [Path(path)]
    return prediction_in(open_tensor_file(weights[0])) if weights else None


def sdxl_pipeline(unet: Any, vae: Any, scheduler: Any) -> Any:
    """diffusers' own SDXL pipeline around these, without text encoders: FaceCLIP gives the conditioning."""
    # As a class of unknown types: diffusers' own annotations rule out a pipeline without text encoders.
    return import_module("diffusers").StableDiffusionXLPipeline(
        unet=unet,
        vae=vae,
        scheduler=scheduler,
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        add_watermarker=False,
    )


def load_scheduler(base: Path | None, prediction: Prediction | None) -> Any:
    """diffusers' Euler scheduler of an SDXL base folder, set to what the UNet predicts, where that is known.

    Without a folder it is SDXL base's own schedule. A schedule that ends in pure
    noise is sampled from its very end (arXiv 2305.08891, section 3.3).
    """
    changes: dict[str, Any] = {}
    if prediction:
        changes["prediction_type"] = "v_prediction" if prediction.kind == "v" else "epsilon"
        changes["rescale_betas_zero_snr"] = prediction.zero_terminal_snr
        if prediction.zero_terminal_snr:
            changes |= {"timestep_spacing": "trailing", "steps_offset": 0}
    scheduler = import_module("diffusers").EulerDiscreteScheduler
    if base is None:
        return scheduler(**{**SCHEDULER_CONFIG, **changes})
    read_config(base / "scheduler" / "scheduler_config.json")
    with built_by(base / "scheduler"):
        return scheduler.from_pretrained(base, subfolder="scheduler", **changes)


def load_vae(path: str | Path, dtype: torch.dtype) -> Any:
    """An AutoencoderKL (SDXL's own) or AutoencoderTiny, from a diffusers folder or a single file, on the CPU.

    Raises CheckpointError if it is something else.
    """
    path = Path(path)
    if path.is_file():
        return load_vae_file(path, dtype)
    config = path / "config.json"
    kind = read_config(config).get("_class_name") if config.is_file() else None
    if kind not in ("AutoencoderKL", "AutoencoderTiny"):
        found = f"its config.json says {kind}, not AutoencoderKL" if config.is_file() else "it has no config.json"
        raise CheckpointError(
            f"There is no VAE in {path}: {found}. Name the `vae` folder of an SDXL in diffusers' format, or a file such as "
            "sdxl_vae.safetensors (`faceclip download sdxl_vae.safetensors`)."
        )
    return load_model(getattr(import_module("diffusers"), kind), path, dtype)


def require_fit(encoder: FaceCLIPEncoder, unet: Any) -> None:
    """Raise CheckpointError unless the UNet (diffusers' class) takes conditioning of the encoder's widths."""
    config = encoder.config
    time_width = 6 * (unet.config.addition_time_embed_dim or 0)
    found = (unet.config.cross_attention_dim, (unet.config.projection_class_embeddings_input_dim or 0) - time_width)
    if found != (config.width, config.pooled_width):
        raise CheckpointError(
            f"This encoder and this UNet do not belong together: the encoder gives embeddings of width {config.width} and pooled "
            f"ones of {config.pooled_width}, the UNet takes {found[0]} and {found[1]}."
        )


def _open_unet(path: str | Path) -> TensorFile:
    file = unet_in(open_tensor_file(path))
    if not any(name.startswith("down_blocks.") for name in file.entries):
        raise CheckpointError(
            f"{path} is an SDXL UNet, but in ComfyUI's naming. Here it must be in diffusers' naming, as the released unet.pt is; "
            "in ComfyUI the node Load FaceCLIP UNet reads both."
        )
    return file


def _without_markers(file: TensorFile) -> TensorFile:
    kept = {name: entry for name, entry in file.entries.items() if name not in (V_PREDICTION, ZERO_TERMINAL_SNR)}
    return replace(file, entries=kept)


def load_model(model: Any, folder: Path, dtype: torch.dtype) -> Any:
    """`model`, a diffusers class, from its own folder: config.json and
    safetensors, the fp16 ones if there are no others.

    On the CPU. Raises CheckpointError.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not weights:
        raise CheckpointError(
            f"{folder} is not a diffusers model folder: it needs a config.json and weights (*.safetensors), "
            f"found {', '.join(sorted(path.name for path in folder.glob('*'))[:6]) or 'nothing'}."
        )
    for path in weights:
        open_tensor_file(path)  # names a damaged file and the remedy, before diffusers trips over it
    only_fp16 = all(".fp16" in path.name for path in weights)
    read_config(folder)
    variant = "fp16" if only_fp16 else None
    with built_by(folder):
        return model.from_pretrained(folder, torch_dtype=dtype, variant=variant, use_safetensors=True, local_files_only=True)


def base_folder(base: str | Path) -> Path:
    """The local folder of the SDXL base, also for a repository in Hugging Face's cache. Raises CheckpointError."""
    folder = Path(base)
    if folder.is_file():
        raise CheckpointError(
            f"{base} is a file, but the SDXL base must be a folder in diffusers' layout (with unet/, vae/ and scheduler/), or "
            f"{SDXL_BASE} in Hugging Face's cache."
        )
    if not folder.is_dir():
        folder = cached_folder(
            str(base), f"The SDXL base {base} is neither a folder nor in Hugging Face's cache. {_base_advice()}"
        )
    missing = [name for name in _BASE_FILES if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder} is not SDXL base in diffusers' layout: it lacks {', '.join(missing)}. {_base_advice()}")
    return folder


def cached_folder(repo: str, otherwise: str) -> Path:
    """Where a repository lies in Hugging Face's cache. Raises CheckpointError, saying `otherwise`."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise CheckpointError(otherwise) from error


def _base_advice() -> str:
    files = " ".join((*_BASE_FILES, "vae/diffusion_pytorch_model.safetensors"))
    return (
        "Name a VAE's file in its place (--vae sdxl_vae.safetensors, which `faceclip download` brings), or run "
        f"`hf download {SDXL_BASE} {files}` (its licence: OpenRAIL++-M)."
    )
