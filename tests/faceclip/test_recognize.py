"""Files are told by their tensors' names: real models' names, not
made-up ones, wherever a library here can build them."""

from __future__ import annotations

import pytest

from faceclip.recognize import ENCODER, FACET5, FLUX, SD_UNET, SDXL_CHECKPOINT, SDXL_UNET, recognize


def tiny_unet(**options):
    from diffusers import UNet2DConditionModel

    common = {
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 2,
        "cross_attention_dim": 8,
    }
    return UNet2DConditionModel(**common, **options)


def test_unets_of_diffusers():
    sdxl = tiny_unet(addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=64)
    assert recognize(sdxl.state_dict()).name == SDXL_UNET
    assert recognize(tiny_unet().state_dict()).name == SD_UNET


def test_controlnet_and_vae_of_diffusers():
    from diffusers import AutoencoderKL, ControlNetModel

    assert recognize(ControlNetModel.from_unet(tiny_unet()).state_dict()).name == "ControlNet"
    assert recognize(AutoencoderKL(block_out_channels=(8,), norm_num_groups=4).state_dict()).name == "VAE"


def test_flux_of_diffusers():
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel(
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    kind = recognize(model.state_dict())
    assert kind.name == FLUX and "Load Diffusion Model" in kind.advice


def test_t5_of_transformers():
    from transformers import T5Config, T5EncoderModel

    t5 = T5EncoderModel(T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=32))
    kind = recognize(t5.state_dict())
    assert kind.name == "T5 text encoder" and "DualCLIPLoader" in kind.advice


def test_clips_of_transformers():
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {f"text_model.{name.removeprefix('text_model.')}" for name in CLIPTextModel(CLIPTextConfig(**small)).state_dict()}
    vision = {
        f"vision_model.{name.removeprefix('vision_model.')}" for name in CLIPVisionModel(CLIPVisionConfig(**small)).state_dict()
    }
    assert recognize(text).name == "CLIP text encoder"
    assert recognize(vision).name == "CLIP vision model"


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["model.face_clip_g.fuser.encoder.layers.0.norm1.weight"], ENCODER),
        (["encoder_2.fuser.encoder.layers.0.norm1.weight"], FACET5),
        (["face_patch_proj.weight", "fuser.encoder.text_layers.0.norm1.weight"], FACET5),
        (["model.diffusion_model.label_emb.0.0.weight", "model.diffusion_model.input_blocks.0.0.weight"], SDXL_CHECKPOINT),
        (["model.diffusion_model.input_blocks.0.0.weight"], "Stable Diffusion 1.x or 2.x checkpoint"),
        (["input_blocks.0.0.weight", "output_blocks.0.0.weight", "label_emb.0.0.weight"], SDXL_UNET),
        (["lora_unet_down_blocks_0.lora_down.weight"], "LoRA"),
        (["unet.down_blocks.0.attn2.to_k.lora_A.weight"], "LoRA"),
        (["image_proj.latents", "ip_adapter.1.to_k_ip.weight"], "InstantID face adapter"),
        (["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"], "IP-Adapter"),
        (["double_blocks.0.img_attn.qkv.weight", "single_blocks.0.linear1.weight"], FLUX),
        (["class_token", "patch_tokens", "present", "signature"], "saved FaceCLIP identity"),
        (["patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "feature.0.weight"], "ArcFace face tower alone"),
    ],
)
def test_other_files_by_their_published_names(names, kind):
    found = recognize(names)
    assert found.name == kind
    assert len(found.advice) > 10


def test_an_unknown_file_shows_what_is_in_it():
    kind = recognize(["zeta.weight", "alpha.weight"])
    assert kind.name == "unknown file"
    assert "alpha.weight, zeta.weight" in kind.advice
