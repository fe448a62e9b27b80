"""What a file of weights is, told from the names of its tensors, and which loader wants it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

ENCODER, FACET5, FLUX, SDXL_UNET, SDXL_CHECKPOINT, SD_UNET = (
    "FaceCLIP encoder",
    "FaceT5 encoder",
    "FLUX transformer",
    "SDXL UNet",
    "SDXL checkpoint",
    "Stable Diffusion 1.x or 2.x UNet",
)
# In the name of every SDXL UNet, in diffusers' and in the core's naming.
_UNET_MARKS = ("add_embedding.linear_1.weight", "label_emb.0.0.weight")
_WRAPPER = r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."


@dataclass(frozen=True)
class Kind:
    """What a file looks like, and what to do with it."""

    name: str
    advice: str

    def __str__(self) -> str:
        return f"{self.name}. {self.advice}"


def recognize(names: Collection[str]) -> Kind:
    """The kind of file whose tensors have these names.

    Never fails: an unknown file is described by a few of its names.
    """
    for kind, signature, excluded in _SIGNATURES:
        if all(any(part in name for name in names) for part in signature) and not any(
            e in name for e in excluded for name in names
        ):
            return kind
    return Kind("unknown file", f"Its first tensors are {', '.join(sorted(names)[:4])}. Look up where it came from.")


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Each name -> the same without what a trainer's wrappers put into it: `module.`, `_orig_mod.`, FSDP's."""
    names = list(names)
    plain = [re.sub(_WRAPPER, "", name) for name in names]
    return dict(zip(names, plain if len(set(plain)) == len(plain) else names, strict=True))


def unet_prefixes(names: Collection[str]) -> list[str]:
    """What stands before the names of each SDXL UNet in a file: `unet.`, `model.diffusion_model.`, "", ..."""
    found = []
    for name in names:
        for mark in _UNET_MARKS:
            prefix = name.removesuffix(mark)
            if prefix != name and (not prefix or prefix.endswith(".")) and prefix not in found:
                own = [other.removeprefix(prefix) for other in names if other.startswith(prefix)]
                if recognize(own).name == SDXL_UNET:
                    found.append(prefix)
    return found


def _kind(
    name: str, advice: str, signature: Sequence[str], excluded: Sequence[str] = ()
) -> tuple[Kind, Sequence[str], Sequence[str]]:
    return Kind(name, advice), signature, excluded


_FLUX_ADVICE = (
    "The core node Load Diffusion Model reads it, and FaceT5 (Load FaceT5, FaceT5 Text Encode) conditions it; "
    "FaceCLIP's own encoder conditions SDXL only."
)

# First match wins, so the more particular comes first. A signature is a set of substrings that must all occur.
_SIGNATURES = (
    _kind(ENCODER, "Load it with Load FaceCLIP Encoder.", ["face_clip_", "fuser.encoder."]),
    _kind(FACET5, "Load it with Load FaceT5.", ["face_patch_proj.", "fuser.encoder."]),
    _kind(FACET5, "Load it with Load FaceT5.", ["encoder_2.t5_encoder."]),
    _kind(FACET5, "Load it with Load FaceT5.", ["encoder_2.fuser."]),
    _kind("saved FaceCLIP identity", "Load it with Load Identity.", ["class_token", "patch_tokens", "signature"]),
    _kind("LoRA", "Load it with the core node Load LoRA, after Load FaceCLIP UNet.", ["lora_"]),
    _kind("LyCORIS or LoRA", "Load it with the core node Load LoRA, after Load FaceCLIP UNet.", ["hada_w1_a"]),
    _kind("PuLID model", "It belongs to a PuLID node pack.", ["id_adapter"]),
    _kind("InstantID face adapter", "It belongs to an InstantID node pack.", ["image_proj.latents", "ip_adapter."]),
    _kind("IP-Adapter", "It belongs to an IP-Adapter node pack.", ["image_proj.", "ip_adapter."]),
    _kind("ControlNet", "Load it with the core node Load ControlNet Model.", ["controlnet_cond_embedding."]),
    _kind("ControlNet", "Load it with the core node Load ControlNet Model.", ["input_hint_block."]),
    _kind("T2I-Adapter", "Load it with the core node Load ControlNet Model.", ["adapter.body."]),
    _kind(SDXL_CHECKPOINT, "Load FaceCLIP UNet reads the UNet in it.", ["model.diffusion_model.label_emb.0.0.weight"]),
    _kind(
        "Stable Diffusion 1.x or 2.x checkpoint",
        "FaceCLIP conditions SDXL only: choose FaceCLIP's unet.pt or an SDXL file.",
        ["model.diffusion_model.input_blocks."],
    ),
    _kind(SDXL_UNET, "Load it with Load FaceCLIP UNet.", ["down_blocks.", "up_blocks.", "add_embedding.linear_1."]),
    _kind(SDXL_UNET, "Load it with Load FaceCLIP UNet.", ["input_blocks.", "output_blocks.", "label_emb.0.0."]),
    _kind(
        SD_UNET,
        "FaceCLIP conditions SDXL only: choose FaceCLIP's unet.pt or an SDXL file.",
        ["down_blocks.", "up_blocks.", "attn2.", "time_embedding."],
    ),
    _kind(
        SD_UNET, "FaceCLIP conditions SDXL only: choose FaceCLIP's unet.pt or an SDXL file.", ["input_blocks.", "output_blocks."]
    ),
    _kind(FLUX, _FLUX_ADVICE, ["double_blocks.", "single_blocks."]),
    _kind(FLUX, _FLUX_ADVICE, ["transformer_blocks.", "context_embedder.", "x_embedder."], ["pos_embed."]),
    _kind(
        "Stable Diffusion 3 model",
        "FaceCLIP conditions SDXL only. The core node Load Diffusion Model reads it.",
        ["joint_blocks."],
    ),
    _kind("tiny autoencoder (TAESD)", "Load it with the core node Load VAE.", ["taesd_"]),
    _kind("VAE", "Load it with the core node Load VAE.", ["decoder.", "encoder.", "post_quant_conv."]),
    _kind("CLIP vision model", "Load it with the core node Load CLIP Vision.", ["vision_model.encoder."], ["text_model."]),
    _kind(
        "T5 text encoder",
        "Load it with the core node DualCLIPLoader, type flux, beside clip_l.",
        ["encoder.block.", "SelfAttention.", "layer_norm."],
    ),
    _kind(
        "CLIP text encoder", "Load it with the core node Load CLIP; FaceCLIP needs none beside its own.", ["text_model.encoder."]
    ),
    _kind(
        "OpenCLIP model", "FaceCLIP needs no CLIP beside its own encoder.", ["visual.transformer.resblocks.", "text_projection"]
    ),
    _kind(
        "OpenCLIP text encoder", "FaceCLIP needs no CLIP beside its own encoder.", ["transformer.resblocks.", "token_embedding."]
    ),
    _kind(
        "ArcFace face tower alone", "FaceCLIP's encoder file contains it already.", ["patch_embed.proj.", "blocks.", "feature.0."]
    ),
    _kind("CLIP vision model (timm ViT)", "Load it with the core node Load CLIP Vision.", ["patch_embed.proj.", "blocks."]),
)
