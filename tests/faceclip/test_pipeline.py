"""The diffusers pipeline on small real models: what it passes on, and what it makes of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from faceclip import FaceCLIPConfig, FaceCLIPEncoder
from faceclip.pipeline import FaceCLIPPipeline, PipelineUnavailableError
from faceclip.prompt import NEGATIVE_PROMPT, tokenize
from faceclip.tensor_file import CheckpointError, write_safetensors

SMALL = {"width": 64, "height": 96, "steps": 3}
PROMPT = "a portrait in a garden"


@pytest.fixture(scope="module")
def pipeline(sdxl_files) -> FaceCLIPPipeline:
    loaded = FaceCLIPPipeline.from_files(sdxl_files.encoder, sdxl_files.unet, sdxl_files.base, device="cpu")
    loaded.sdxl.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def faces() -> torch.Tensor:
    return torch.rand(2, 3, 448, 448, generator=torch.Generator().manual_seed(1))


def pixels(images) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images])


def reference_picture(pipeline: FaceCLIPPipeline, face: torch.Tensor, seed: int, guidance: float) -> np.ndarray:
    """The same picture by Euler's method written out: SDXL's noise schedule, classifier-free guidance, VAE."""
    encoder, unet, vae = pipeline.encoder, pipeline.sdxl.unet, pipeline.sdxl.vae
    width, height, steps = SMALL["width"], SMALL["height"], SMALL["steps"]
    positive = encoder.encode([PROMPT], encoder.encode_faces(face[None]))
    negative = encoder.encode([NEGATIVE_PROMPT])
    added = {
        "text_embeds": torch.cat([negative.pooled, positive.pooled]),
        "time_ids": torch.tensor([[height, width, 0, 0, height, width]]).float().repeat(2, 1),
    }
    kept = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    times = torch.arange(steps).flip(0) * (1000 // steps) + 1
    sigmas = torch.cat([((1 - kept[times]) / kept[times]).sqrt(), torch.zeros(1)])
    noise = torch.randn(1, 4, height // 8, width // 8, generator=torch.Generator().manual_seed(seed))
    latent = noise * (sigmas[0] ** 2 + 1).sqrt()
    with torch.no_grad():
        for time, sigma, following in zip(times, sigmas, sigmas[1:], strict=False):
            scaled = (latent / (sigma**2 + 1).sqrt()).repeat(2, 1, 1, 1)
            embeddings = torch.cat([negative.embeddings, positive.embeddings])
            without, with_prompt = unet(scaled, time, embeddings, added_cond_kwargs=added).sample.chunk(2)
            latent = latent + (without + guidance * (with_prompt - without)) * (following - sigma)
        picture = vae.decode(latent / vae.config.scaling_factor).sample
    return ((picture[0] / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


@pytest.mark.parametrize("guidance", [5.0, 2.0])
def test_it_is_euler_sampling_of_the_encoders_conditioning(pipeline, faces, guidance):
    image = pipeline(PROMPT, faces[0], seed=3, guidance=guidance, **SMALL)[0]
    expected = reference_picture(pipeline, faces[0], seed=3, guidance=guidance)
    difference = np.abs(np.asarray(image).astype(int) - expected.astype(int))
    assert difference.max() <= 1, "one grey level of 255 for rounding"
    assert expected.std() > 5, "a picture with nothing on it would prove nothing"


def test_the_unet_gets_exactly_what_the_encoder_gives(pipeline, faces):
    received = []
    hook = pipeline.sdxl.unet.register_forward_pre_hook(lambda module, args, kwargs: received.append(kwargs), with_kwargs=True)
    pipeline(PROMPT, faces[0], strength=0.7, seed=0, **SMALL)
    hook.remove()
    encoder = pipeline.encoder
    positive = encoder.encode([PROMPT], encoder.encode_faces(faces[:1]), strength=0.7)
    negative = encoder.encode([NEGATIVE_PROMPT])
    assert len(received) == SMALL["steps"]
    for call in received:
        assert torch.equal(call["encoder_hidden_states"], torch.cat([negative.embeddings, positive.embeddings]))
        assert torch.equal(call["added_cond_kwargs"]["text_embeds"], torch.cat([negative.pooled, positive.pooled]))
        assert call["added_cond_kwargs"]["time_ids"].tolist() == [[96, 64, 0, 0, 96, 64]] * 2


def test_same_seed_same_picture_and_the_global_generator_is_left_alone(pipeline, faces):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = pixels(pipeline(PROMPT, faces[0], seed=1, **SMALL))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert np.array_equal(first, pixels(pipeline(PROMPT, faces[0], seed=1, **SMALL)))
    assert not np.array_equal(first, pixels(pipeline(PROMPT, faces[0], seed=2, **SMALL)))


def test_without_a_seed_every_picture_is_another(pipeline):
    assert not np.array_equal(pixels(pipeline(PROMPT, **SMALL)), pixels(pipeline(PROMPT, **SMALL)))


def test_another_person_and_another_prompt_make_another_picture(pipeline, faces):
    first = pixels(pipeline(PROMPT, faces[0], seed=1, **SMALL))
    assert not np.array_equal(first, pixels(pipeline(PROMPT, faces[1], seed=1, **SMALL)))
    assert not np.array_equal(first, pixels(pipeline("a man on a beach", faces[0], seed=1, **SMALL)))


def test_strength_zero_is_no_face_bit_for_bit(pipeline, faces):
    text_only = pixels(pipeline(PROMPT, seed=1, **SMALL))
    assert np.array_equal(text_only, pixels(pipeline(PROMPT, faces[0], strength=0, seed=1, **SMALL)))
    assert not np.array_equal(text_only, pixels(pipeline(PROMPT, faces[0], strength=0.5, seed=1, **SMALL)))


def test_an_identity_serves_as_well_as_its_crop(pipeline, faces):
    identity = pipeline.encoder.encode_faces(faces[:1])
    from_crop = pixels(pipeline(PROMPT, faces[0], seed=1, **SMALL))
    assert np.array_equal(from_crop, pixels(pipeline(PROMPT, identity, seed=1, **SMALL)))


def test_pictures_come_per_prompt_and_person_each_from_its_own_seed(pipeline, faces):
    images = pipeline([PROMPT, "a man on a beach"], faces, seed=7, num_images=2, **SMALL)
    assert [image.size for image in images] == [(64, 96)] * 4
    alone = pipeline("a man on a beach", faces[1], seed=9, **SMALL)[0]
    difference = np.abs(np.asarray(images[2]).astype(int) - np.asarray(alone).astype(int))
    assert difference.max() <= 1, "batches may round differently"


def test_the_negative_prompt_counts_unless_guidance_is_off(pipeline):
    def picture(**settings):
        return pixels(pipeline(PROMPT, seed=1, **settings, **SMALL))

    assert not np.array_equal(picture(), picture(negative_prompt="trees"))
    assert np.array_equal(picture(guidance=1), picture(guidance=1, negative_prompt="trees"))


def test_the_negative_prompt_fits_uncut():
    tokens = tokenize(NEGATIVE_PROMPT, with_identity=False)
    assert tokens.cut == "" and 50 <= tokens.count <= 75


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_makes_nearly_the_same_picture(sdxl_files, pipeline, faces, dtype):
    half = FaceCLIPPipeline.from_files(sdxl_files.encoder, sdxl_files.unet, sdxl_files.base, device="cpu", dtype=dtype)
    assert half.sdxl.unet.dtype == dtype
    # The starting noise is drawn in the pipeline's dtype, so pictures are compared by what the conditioning is.
    whole, reduced = pipeline.conditioning(PROMPT, faces[0])[0], half.conditioning(PROMPT, faces[0])[0]
    error = (whole.embeddings - reduced.embeddings.float()).norm() / whole.embeddings.norm()
    assert error < 2e-2
    assert pixels(half(PROMPT, faces[0], seed=1, **SMALL)).std() > 5


EPSILON, V, V_TO_NOISE = ("epsilon", False, "leading"), ("v_prediction", False, "leading"), ("v_prediction", True, "trailing")


@pytest.mark.parametrize(
    ("metadata", "sampled"),
    [
        ({}, EPSILON),
        ({"prediction": "epsilon", "zero_terminal_snr": "false"}, EPSILON),
        ({"prediction": "v", "zero_terminal_snr": "false"}, V),
        ({"prediction": "v", "zero_terminal_snr": "true"}, V_TO_NOISE),
    ],
    ids=["says nothing", "epsilon", "v", "v with zero terminal SNR"],
)
@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_a_unet_is_sampled_as_its_file_says(sdxl_files, tmp_path, metadata, sampled, folder):
    name = "unet/diffusion_pytorch_model.safetensors" if folder else "unet.safetensors"
    write_safetensors(tmp_path / name, torch.load(sdxl_files.unet), metadata)
    if folder:
        shutil.copy(sdxl_files.base / "unet" / "config.json", tmp_path / "unet")
    unet = tmp_path / "unet" if folder else tmp_path / name
    made = FaceCLIPPipeline.from_files(sdxl_files.encoder, unet, sdxl_files.base, device="cpu")
    config = made.sdxl.scheduler.config
    assert (config.prediction_type, config.rescale_betas_zero_snr, config.timestep_spacing) == sampled
    made.sdxl.scheduler.set_timesteps(4)
    assert (float(made.sdxl.scheduler.timesteps[0]) == 999) == (sampled == V_TO_NOISE)


def test_markers_of_a_unet_are_read_and_no_weights(sdxl_files, tmp_path):
    markers = {"v_pred": torch.empty(0), "ztsnr": torch.empty(0)}
    write_safetensors(tmp_path / "unet.safetensors", {**torch.load(sdxl_files.unet), **markers}, {})
    made = FaceCLIPPipeline.from_files(sdxl_files.encoder, tmp_path / "unet.safetensors", sdxl_files.base, device="cpu")
    assert made.sdxl.scheduler.config.prediction_type == "v_prediction" and made.sdxl.scheduler.config.rescale_betas_zero_snr


def test_a_unet_that_predicts_what_nobody_knows_is_refused(sdxl_files, tmp_path):
    write_safetensors(tmp_path / "unet.safetensors", torch.load(sdxl_files.unet), {"prediction": "sample"})
    with pytest.raises(CheckpointError, match="says that its UNet predicts 'sample'. Known here are epsilon and v"):
        FaceCLIPPipeline.from_files(sdxl_files.encoder, tmp_path / "unet.safetensors", sdxl_files.base, device="cpu")


def test_offloading_changes_where_things_lie_not_the_picture(sdxl_files, pipeline, faces):
    offloaded = FaceCLIPPipeline.from_files(sdxl_files.encoder, sdxl_files.unet, sdxl_files.base, device="cpu", offload=True)
    assert np.array_equal(
        pixels(offloaded(PROMPT, faces[0], seed=1, **SMALL)), pixels(pipeline(PROMPT, faces[0], seed=1, **SMALL))
    )


class TestFiles:
    """What may be loaded, and what is said about the rest."""

    def unet_values(self, sdxl_files) -> dict[str, torch.Tensor]:
        return torch.load(sdxl_files.unet, weights_only=True)

    def load(self, sdxl_files, **other) -> FaceCLIPPipeline:
        files = {"encoder": sdxl_files.encoder, "unet": sdxl_files.unet, "base": sdxl_files.base} | other
        return FaceCLIPPipeline.from_files(**files, device="cpu")

    def test_the_unet_may_be_a_safetensors_file_or_a_diffusers_folder(self, sdxl_files, pipeline, tmp_path):
        write_safetensors(tmp_path / "unet.safetensors", self.unet_values(sdxl_files), {})
        pipeline.sdxl.unet.save_pretrained(tmp_path / "unet")
        for unet in (tmp_path / "unet.safetensors", tmp_path / "unet"):
            loaded = self.load(sdxl_files, unet=unet).sdxl.unet.state_dict()
            assert loaded.keys() == self.unet_values(sdxl_files).keys()
            assert all(torch.equal(loaded[name], value) for name, value in self.unet_values(sdxl_files).items())

    def test_the_base_may_be_a_repository_in_the_cache(self, sdxl_files, tmp_path, monkeypatch):
        repo = tmp_path / "models--someone--sdxl"
        shutil.copytree(sdxl_files.base, repo / "snapshots" / "abc123")
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text("abc123")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        assert self.load(sdxl_files, base="someone/sdxl").sdxl.vae.config.scaling_factor == 0.13025

    def test_a_base_with_fp16_weights_only_is_enough(self, sdxl_files, tmp_path):
        shutil.copytree(sdxl_files.base, tmp_path / "base")
        vae = tmp_path / "base" / "vae"
        (vae / "diffusion_pytorch_model.safetensors").rename(vae / "diffusion_pytorch_model.fp16.safetensors")
        assert self.load(sdxl_files, base=tmp_path / "base").sdxl.vae.dtype == torch.float32

    def test_text_encoders_are_neither_needed_nor_loaded(self, pipeline):
        assert pipeline.sdxl.text_encoder is None and pipeline.sdxl.tokenizer_2 is None

    def test_a_base_that_is_not_there_says_how_to_get_it(self, sdxl_files, tmp_path, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(CheckpointError, match=r"neither a folder nor in Hugging Face's cache.*hf download stabilityai"):
            self.load(sdxl_files, base="someone/absent")
        with pytest.raises(CheckpointError, match="neither a folder nor in Hugging Face's cache"):
            self.load(sdxl_files, base="no such/folder/at all")

    def test_a_base_that_is_a_file_or_incomplete_is_refused(self, sdxl_files, tmp_path):
        with pytest.raises(CheckpointError, match="must be a folder in diffusers' layout"):
            self.load(sdxl_files, base=sdxl_files.unet)
        with pytest.raises(CheckpointError, match=r"lacks unet/config.json, vae/config.json, scheduler/scheduler_config.json"):
            self.load(sdxl_files, base=tmp_path)

    def test_a_truncated_vae_is_named(self, sdxl_files, tmp_path):
        shutil.copytree(sdxl_files.base, tmp_path / "base")
        weights = tmp_path / "base" / "vae" / "diffusion_pytorch_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        with pytest.raises(CheckpointError, match=r"diffusion_pytorch_model.safetensors is incomplete"):
            self.load(sdxl_files, base=tmp_path / "base")

    def test_files_in_each_others_place_are_recognised(self, sdxl_files):
        with pytest.raises(CheckpointError, match="not a FaceCLIP encoder: it looks like this: SDXL UNet"):
            self.load(sdxl_files, encoder=sdxl_files.unet)
        with pytest.raises(CheckpointError, match="has no SDXL UNet in it: it looks like this: FaceCLIP encoder"):
            self.load(sdxl_files, unet=sdxl_files.encoder)

    def test_a_unet_in_comfyui_naming_is_told_apart(self, sdxl_files, tmp_path):
        names = ("input_blocks.0.0.weight", "output_blocks.0.0.weight", "label_emb.0.0.weight")
        write_safetensors(tmp_path / "unet.safetensors", {name: torch.zeros(1) for name in names}, {})
        with pytest.raises(CheckpointError, match=r"in ComfyUI's naming.*Load FaceCLIP UNet reads both"):
            self.load(sdxl_files, unet=tmp_path / "unet.safetensors")

    def test_a_unet_of_another_shape_names_the_first_difference(self, sdxl_files, tmp_path):
        values = self.unet_values(sdxl_files)
        del values["conv_in.bias"]
        write_safetensors(tmp_path / "unet.safetensors", values, {})
        with pytest.raises(CheckpointError, match="whole UNet: it lacks 1 of .* among them conv_in.bias.*released unet.pt"):
            self.load(sdxl_files, unet=tmp_path / "unet.safetensors")

    def test_an_encoder_of_another_size_is_refused(self, sdxl_files, tmp_path):
        FaceCLIPEncoder(FaceCLIPConfig.preset("mini").only("g")).save(tmp_path / "g.safetensors")
        with pytest.raises(CheckpointError, match="embeddings of width 48 and pooled ones of 48, the UNet takes 80 and 48"):
            self.load(sdxl_files, encoder=tmp_path / "g.safetensors")

    def test_a_missing_released_file_says_where_to_get_it(self, sdxl_files, tmp_path):
        with pytest.raises(CheckpointError, match=r"https://huggingface.co/ByteDance/FaceCLIP/resolve/main/model/unet.pt"):
            self.load(sdxl_files, unet=tmp_path / "unet.pt")

    def test_an_empty_diffusers_folder_is_no_unet(self, sdxl_files, tmp_path):
        with pytest.raises(CheckpointError, match=r"not a diffusers model folder.*found nothing"):
            self.load(sdxl_files, unet=tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 65}, "multiples of 8 pixels; found 65 x 96"),
        ({"height": 0}, "multiples of 8 pixels; found 64 x 0"),
        ({"steps": 0}, "at least 1; found 0 and 1"),
        ({"num_images": 0}, "at least 1; found 3 and 0"),
    ],
)
def test_requests_that_make_no_picture_are_refused(pipeline, settings, message):
    with pytest.raises(ValueError, match=message):
        pipeline(PROMPT, **{**SMALL, **settings})


def test_a_crop_of_another_size_is_refused(pipeline):
    with pytest.raises(ValueError, match=r"aligned crops of shape \[B, 3, 448, 448\]; found \[1, 3, 512, 512\]"):
        pipeline(PROMPT, torch.rand(3, 512, 512), **SMALL)


def test_an_identity_of_another_encoder_is_refused(pipeline, faces):
    with torch.random.fork_rng():
        torch.manual_seed(9)
        other = FaceCLIPEncoder(FaceCLIPConfig.preset("mini"))
    with pytest.raises(ValueError, match="made by another encoder"):
        pipeline(PROMPT, other.encode_faces(faces[:1]), **SMALL)


def test_the_module_itself_needs_no_diffusers():
    source = Path(__file__).parents[2] / "faceclip" / "pipeline.py"
    top_level = [line for line in source.read_text().splitlines() if line.startswith(("import ", "from "))]
    assert top_level and not any("diffusers" in line for line in top_level)


def test_without_diffusers_the_command_to_install_it_is_named(sdxl_files, monkeypatch):
    monkeypatch.setattr("faceclip.pipeline.find_spec", lambda name: None)
    with pytest.raises(PipelineUnavailableError, match="pip install diffusers transformers accelerate"):
        FaceCLIPPipeline.from_files(sdxl_files.encoder, sdxl_files.unet, sdxl_files.base)


def test_a_vae_takes_the_place_of_the_base_folder(sdxl_files, tmp_path):
    unet = tmp_path / "unet.pt"
    shutil.copy(sdxl_files.unet, unet)
    shutil.copy(sdxl_files.base / "unet" / "config.json", tmp_path)
    request = {"width": 64, "height": 64, "steps": 2, "seed": 5}
    (by_base,) = FaceCLIPPipeline.from_files(sdxl_files.encoder, unet, sdxl_files.base)("a person", **request)
    pipeline = FaceCLIPPipeline.from_files(sdxl_files.encoder, unet, "nowhere", vae=sdxl_files.base / "vae")
    (by_vae,) = pipeline("a person", **request)
    assert np.array_equal(np.asarray(by_base), np.asarray(by_vae))
    pictures = pipeline(["a person"] * 2, **{**request, "seed": [9, 5]})
    assert np.abs(np.asarray(pictures[1]).astype(int) - np.asarray(by_vae)).max() <= 2
    with pytest.raises(ValueError, match="There are 1 seeds for 2 pictures"):
        pipeline(["a person"] * 2, **{**request, "seed": [9]})
