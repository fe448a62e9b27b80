"""The parts of FLUX.1-dev that generation needs, from local files in diffusers' layout, with clear errors."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ..recognize import FLUX, recognize
from ..sdxl_files import cached_folder, fill, load_model
from ..tensor_file import CheckpointError, open_tensor_file
from .encoder import FaceT5Encoder
from .transformer import in_diffusers_form, is_diffusers

FLUX_BASE = "black-forest-labs/FLUX.1-dev"
_FILES = (
    "model_index.json",
    "transformer/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "text_encoder_2/config.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer_2/tokenizer_config.json",
    "scheduler/scheduler_config.json",
)


def load_transformer(path: str | Path, config: str | Path, dtype: torch.dtype) -> Any:
    """Load a FLUX transformer (`FluxTransformer2DModel`) into CPU memory, in eval mode.

    path: `dit.pt`, what `faceclip convert` made of it, whose shapes `config` (a diffusers `config.json`) tells,
    or a diffusers folder with its own. Raises CheckpointError, which says what the file looks like.
    """
    model = import_module("diffusers").FluxTransformer2DModel
    if Path(path).is_dir():
        return load_model(model, Path(path), dtype)
    file = open_tensor_file(path)
    kind = recognize(file.entries)
    if kind.name != FLUX:
        raise CheckpointError(f"{path} is not the FLUX transformer of FaceT5: it looks like this: {kind}")
    entries = file.entries if is_diffusers(file.entries) else in_diffusers_form(file.entries, path)
    advice = f"Use the released dit.pt with {FLUX_BASE}."
    return fill(model, config, Path(path), entries, dtype, "FLUX transformer", advice)


def require_fit(encoder: FaceT5Encoder, flux: Any) -> None:
    """Raise CheckpointError unless transformer and T5 (of diffusers' pipeline) are of the encoder's width."""
    width = encoder.config.width
    found = {
        "the transformer": flux.transformer.config.joint_attention_dim,
        "T5": flux.text_encoder_2.config.d_model,
    }
    for what, other in found.items():
        if other != width:
            raise CheckpointError(
                f"This FaceT5 and {what} do not belong together: FaceT5 is of width {width}, {what} of {other}. "
                f"Use the released files with {FLUX_BASE}."
            )


def base_folder(base: str | Path) -> Path:
    """The local folder of FLUX.1-dev, also for a repository in Hugging Face's cache. Raises CheckpointError."""
    folder = Path(base)
    if folder.is_file():
        raise CheckpointError(f"{base} is a file, but the FLUX base must be a folder in diffusers' layout. {_advice()}")
    if not folder.is_dir():
        folder = cached_folder(str(base), f"The FLUX base {base} is neither a folder nor in Hugging Face's cache. {_advice()}")
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder} is not FLUX.1-dev in diffusers' layout: it lacks {', '.join(missing)}. {_advice()}")
    return folder


def _advice() -> str:
    return (
        f"Accept the licence on https://huggingface.co/{FLUX_BASE}, then run `hf download {FLUX_BASE} --exclude "
        '"transformer/*.safetensors" "*.sft" "flux1-dev.safetensors"`.'
    )
