"""FaceT5Pipeline on tiny real classes of diffusers and transformers: what it passes on, and what it makes of it."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from faceclip.cli import main
from faceclip.flux.convert import convert_facet5, convert_transformer
from faceclip.flux.pipeline import FaceT5Pipeline
from faceclip.flux.prompt import read_prompt
from faceclip.tensor_file import CheckpointError

ROOT = Path(__file__).resolve().parents[3]
SMALL = {"width": 64, "height": 96, "steps": 3}


@dataclass(frozen=True)
class FluxFiles:
    encoder: Path
    transformer: Path
    base: Path


@pytest.fixture(scope="module")
def files(golden, tmp_path_factory) -> FluxFiles:
    """A complete tiny FaceT5-FLUX: the golden FaceT5 with its own T5 and
    CLIP-L, a transformer and a VAE of random weights."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

    folder = tmp_path_factory.mktemp("flux")
    parts = {name: folder / f"{name}.safetensors" for name in ("own", "t5xxl", "clip_l")}
    convert_facet5(golden.file, parts["own"], torch.float32, t5xxl=parts["t5xxl"], clip_l=parts["clip_l"])
    t5_config = T5Config(d_model=64, d_kv=8, d_ff=96, num_heads=4, num_layers=2, feed_forward_proj="gated-gelu", vocab_size=32128)
    t5 = T5EncoderModel(t5_config)
    t5.load_state_dict(load_file(parts["t5xxl"]), strict=False)
    clip = CLIPTextModel(
        CLIPTextConfig(hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, eos_token_id=49407)
    )
    wanted = clip.state_dict().keys()
    weights = load_file(parts["clip_l"])
    clip.load_state_dict({n if n in wanted else n.removeprefix("text_model."): t for n, t in weights.items()})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = FluxTransformer2DModel(
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=64,
            pooled_projection_dim=48,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=True,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            norm_num_groups=4,
            latent_channels=16,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            use_quant_conv=False,
            use_post_quant_conv=False,
            scaling_factor=0.3611,
            shift_factor=0.1159,
        )
    core = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".dev" / "comfyui") / "comfy"
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
    pipeline = FluxPipeline(
        transformer=transformer,
        vae=vae,
        text_encoder=clip,
        text_encoder_2=t5,
        tokenizer=CLIPTokenizer.from_pretrained(core / "sd1_tokenizer"),
        tokenizer_2=T5TokenizerFast.from_pretrained(core / "text_encoders" / "t5_tokenizer"),
        scheduler=scheduler,
    )
    pipeline.save_pretrained(folder / "base")
    torch.save(transformer.state_dict(), folder / "dit.pt")
    return FluxFiles(parts["own"], folder / "dit.pt", folder / "base")


@pytest.fixture(scope="module")
def pipeline(files) -> FaceT5Pipeline:
    loaded = FaceT5Pipeline.from_files(files.encoder, files.transformer, files.base, device="cpu")
    loaded.flux.set_progress_bar_config(disable=True)
    return loaded


def test_prompts_and_faces_give_the_references_conditioning(pipeline, golden):
    """The references' prompts through FLUX's own tokenizers, T5 and CLIP-L, as diffusers has them."""
    rows = [i for i, prompt in enumerate(golden.prompts) if "(" not in prompt]
    prompts, faces = [golden.prompts[i] for i in rows], golden.faces[rows]
    positive, _ = pipeline.conditioning(prompts, faces)
    for found, name in zip(positive, ("embeddings", "pooled"), strict=True):
        expected = golden.outputs[name][rows]
        assert (found - expected).norm() / expected.norm() < 5e-6, name


def test_the_transformer_gets_the_conditioning_with_guidance_1_and_cfg_3_5(pipeline, golden):
    received = []
    hook = pipeline.flux.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: received.append(kwargs), with_kwargs=True
    )
    pipeline("a man", golden.faces[0], seed=0, strength=0.7, **SMALL)
    hook.remove()
    positive, negative = pipeline.conditioning("a man", golden.faces[0], strength=0.7)
    assert len(received) == 2 * SMALL["steps"]
    for call, (embeddings, pooled) in zip(received, [positive, negative] * SMALL["steps"], strict=True):
        assert torch.equal(call["encoder_hidden_states"], embeddings) and torch.equal(call["pooled_projections"], pooled)
        assert call["guidance"].tolist() == [1.0]
        assert not call["txt_ids"].any()
    assert not torch.equal(positive[0], negative[0])


def test_it_is_euler_sampling_with_true_guidance(pipeline, golden):
    """The same picture by the flow's equations written out: shifted noise levels, two evaluations per step, the VAE."""
    face, seed, (width, height, steps) = golden.faces[0], 3, SMALL.values()
    image = pipeline("a man", face, seed=seed, **SMALL)[0]
    positive, negative = pipeline.conditioning("a man", face)
    patches = (height // 16) * (width // 16)
    mu = 0.5 + 0.65 * (patches - 256) / (4096 - 256)
    times = np.linspace(1, 1 / steps, steps)
    sigmas = [*(float(np.exp(mu) / (np.exp(mu) + (1 / t - 1))) for t in times), 0.0]
    noise = torch.randn(1, 16, height // 8, width // 8, generator=torch.Generator().manual_seed(seed))
    x = noise.view(1, 16, height // 16, 2, width // 16, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, patches, 64)
    ids = torch.zeros(height // 16, width // 16, 3)
    ids[..., 1], ids[..., 2] = torch.arange(height // 16)[:, None], torch.arange(width // 16)
    with torch.no_grad():
        for sigma, following in itertools.pairwise(sigmas):
            with_face, without = (
                pipeline.flux.transformer(
                    hidden_states=x,
                    encoder_hidden_states=embeddings,
                    pooled_projections=pooled,
                    timestep=torch.tensor([sigma]),
                    guidance=torch.tensor([1.0]),
                    img_ids=ids.view(-1, 3),
                    txt_ids=torch.zeros(512, 3),
                ).sample
                for embeddings, pooled in (positive, negative)
            )
            x = x + (without + 3.5 * (with_face - without)) * (following - sigma)
        latent = x.view(1, height // 16, width // 16, 16, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(1, 16, height // 8, width // 8)
        decoded = pipeline.flux.vae.decode(latent / 0.3611 + 0.1159).sample[0]
    expected = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.abs(np.asarray(image).astype(int) - expected.astype(int)).max() <= 1
    assert expected.std() > 5, "a picture with nothing on it would prove nothing"


def test_several_people_and_pictures(pipeline, golden):
    identity = pipeline.encoder.encode_faces(golden.faces[:2])
    images = pipeline("a man", identity, seed=1, num_images=2, **{**SMALL, "steps": 1})
    assert len(images) == 4
    alone = pipeline("a man", identity[1], seed=3, **{**SMALL, "steps": 1})[0]
    difference = np.asarray(images[2]).astype(int) - np.asarray(alone).astype(int)
    assert np.abs(difference).max() <= 1


def test_a_converted_transformer_gives_the_same_picture(pipeline, files, golden, tmp_path):
    convert_transformer(files.transformer, tmp_path / "dit.safetensors", torch.float32)
    other = FaceT5Pipeline.from_files(files.encoder, tmp_path / "dit.safetensors", files.base, device="cpu")
    other.flux.set_progress_bar_config(disable=True)
    pictures = [np.asarray(p("a man", golden.faces[0], seed=0, **SMALL)[0]) for p in (pipeline, other)]
    assert np.array_equal(*pictures)


def test_weights_and_long_prompts(pipeline, golden, caplog):
    tokenizer = pipeline.flux.tokenizer_2
    for prompt, ids in zip(golden.prompts, golden.outputs["input_ids_t5"], strict=True):
        escaped = prompt.replace("(", "\\(").replace(")", "\\)")
        assert torch.equal(read_prompt(escaped, tokenizer).input_ids, ids.long())
    plain, more, empty = (pipeline.conditioning(text)[0][0][0] for text in ("a man in red", "a man in (red:1.5)", ""))
    assert torch.allclose(more[4], torch.lerp(empty[4], plain[4], 1.5), atol=1e-5)
    assert torch.equal(more[:4], plain[:4])
    pipeline.conditioning("blue " * 511 + "and the end")
    assert "this was cut off: 'and the end'" in caplog.text


def test_sizes_and_numbers_that_cannot_be_are_refused(pipeline):
    for changed, message in (
        ({"width": 72}, "multiples of 16 pixels; found 72 x 96"),
        ({"steps": 0}, "at least 1; found 0"),
    ):
        with pytest.raises(ValueError, match=message):
            pipeline("a man", **{**SMALL, **changed})


def test_what_does_not_belong_together_is_told(files, sdxl_files, golden, tmp_path):
    with pytest.raises(CheckpointError, match="is not the FLUX transformer of FaceT5.*SDXL UNet"):
        FaceT5Pipeline.from_files(files.encoder, sdxl_files.unet, files.base)
    with pytest.raises(CheckpointError, match="not FLUX.1-dev in diffusers' layout: it lacks model_index.json"):
        FaceT5Pipeline.from_files(files.encoder, files.transformer, sdxl_files.base)
    with pytest.raises(CheckpointError, match="neither a folder nor in Hugging Face's cache. Accept the licence"):
        FaceT5Pipeline.from_files(files.encoder, files.transformer, "nobody/nothing")
    base = tmp_path / "base"
    shutil.copytree(files.base, base)
    config = json.loads((base / "transformer" / "config.json").read_text())
    (base / "transformer" / "config.json").write_text(json.dumps({**config, "joint_attention_dim": 32}))
    with pytest.raises(CheckpointError, match="configuration of the FLUX transformer: context_embedder.weight.*dit.pt"):
        FaceT5Pipeline.from_files(files.encoder, files.transformer, base)


def test_the_command_line_makes_a_picture_with_flux(files, golden, tmp_path, capsys):
    crop = (golden.faces[0].permute(1, 2, 0) * 255).round().byte().numpy()
    Image.fromarray(crop).save(tmp_path / "crop.png")
    out = tmp_path / "out.png"
    command = ["generate", "--prompt", "a man", "--out", str(out), "--encoder", str(files.encoder), "--device", "cpu"]
    given = ["--face", str(tmp_path / "crop.png"), "--aligned", "--base", str(files.base), "--seed", "1", "--steps", "1"]
    size = ["--width", "64", "--height", "96"]
    assert main([*command, *given, *size, "--family", "flux", "--transformer", str(files.transformer)]) == 0
    assert "64 x 96, seed 1, 1 steps, CFG 3.5, strength 1" in capsys.readouterr().out
    assert Image.open(out).size == (64, 96)
    for wrong in (["--family", "flux"], ["--family", "flux", "--unet", str(files.transformer)], []):
        assert main([*command, *given, *wrong]) == 2
        assert "needs --" in capsys.readouterr().err


def test_the_negative_prompt_is_faceclips_and_more():
    from faceclip.prompt import FLUX_NEGATIVE_PROMPT, NEGATIVE_PROMPT

    assert FLUX_NEGATIVE_PROMPT.endswith(NEGATIVE_PROMPT) and "3d render" in FLUX_NEGATIVE_PROMPT
