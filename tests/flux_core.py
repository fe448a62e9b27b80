"""Tiny FLUX text encoders in the core's own classes. The core's loader knows only the full size, so its detection is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CLIP_L = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "projection_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def tiny_flux_clip(t5: Path, clip_l: Path, width: int = 64) -> Any:
    """The core's CLIP of type flux, of the golden tiny model's sizes, with the weights of two files in the core's names.

    `width` is what its T5 is built with; another than the files' 64 gives a T5 of random weights.
    """
    import comfy.sd
    import comfy.text_encoders.flux
    import comfy.utils
    import torch
    from comfy.supported_models_base import ClipTarget

    target = ClipTarget(comfy.text_encoders.flux.FluxTokenizer, comfy.text_encoders.flux.flux_clip(torch.float32))
    t5_config = {"d_model": width, "d_kv": 8, "num_heads": 4, "d_ff": 96, "num_layers": 2}
    clip = comfy.sd.CLIP(
        target, model_options={"t5xxl_model_config": t5_config, "clip_l_model_config": CLIP_L, "dtype": torch.float32}
    )
    files = [clip_l] if width != 64 else [t5, clip_l]
    for path in files:
        missing, unknown = clip.load_sd(comfy.utils.load_torch_file(str(path), safe_load=True))
        assert not unknown
        assert set(missing) <= {"text_projection.weight", "encoder.embed_tokens.weight"}, missing
    return clip
