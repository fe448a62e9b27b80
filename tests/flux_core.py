"""Tiny FLUX text encoders in the core's own classes.

The core's loader knows only the full size, so its detection is left out.
"""

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
    """The core's CLIP of type flux, of the golden tiny model's sizes, with
    the weights of two files in the core's names.

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


def flux_transformer(heads: int, head_width: int, depth: tuple[int, int], dtype: Any = None) -> dict[str, Any]:
    """Random weights of a FLUX transformer in diffusers' names, for conditioning of the golden tiny model's widths."""
    import torch
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        model = FluxTransformer2DModel(
            num_layers=depth[0],
            num_single_layers=depth[1],
            attention_head_dim=head_width,
            num_attention_heads=heads,
            joint_attention_dim=64,
            pooled_projection_dim=48,
            axes_dims_rope=(head_width // 4, head_width // 4, head_width // 2),
            guidance_embeds=True,
        )
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1 << 20, generator=generator)
    weights = {}
    for name, tensor in model.state_dict().items():
        count = tensor.numel()
        values = noise.repeat(-(-count // len(noise)))[:count].view(tensor.shape) * (tensor.shape[-1] ** -0.5)
        weights[name] = (values + 1 if "norm_" in name and tensor.ndim == 1 else values).to(dtype or torch.float32).clone()
    return weights
