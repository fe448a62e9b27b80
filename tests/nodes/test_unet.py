"""Load FaceCLIP UNet: every format and weight dtype, parity with diffusers, and what it says of wrong files."""

from __future__ import annotations

import itertools
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

DTYPES = {
    "default": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}


def tiny_unet(**changes: Any) -> Any:
    """A real diffusers UNet of SDXL's shape, two levels deep, with random weights."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    options = {
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": (1, 1),
        "transformer_layers_per_block": (1, 2),
        "cross_attention_dim": 80,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 48 + 6 * 256,
    }
    return UNet2DConditionModel(**{**options, **changes}).eval()


@pytest.fixture(scope="module")
def unet() -> Any:
    return tiny_unet()


@pytest.fixture(scope="module")
def unet_files(unet: Any, pack_module: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same weights as diffusers' .pt, as safetensors of it, and in a single-file checkpoint beside other models."""
    import comfy.utils

    folder = tmp_path_factory.mktemp("unets")
    files = {name: folder / name for name in ("unet.pt", "unet.safetensors", "checkpoint.safetensors")}
    weights = unet.state_dict()
    torch.save(weights, files["unet.pt"])
    save_file(weights, files["unet.safetensors"])
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    names = comfy.utils.unet_to_diffusers(_unet_file(pack_module).diffusers_layout(shapes))
    single = {f"model.diffusion_model.{names[name]}": tensor for name, tensor in weights.items()}
    single["first_stage_model.decoder.conv_in.weight"] = torch.zeros(4, 4)
    single["conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight"] = torch.zeros(4, 4)
    save_file(single, files["checkpoint.safetensors"])
    return files


def _unet_file(pack_module: Any) -> Any:
    import sys

    return sys.modules[f"{pack_module.__name__}.nodes.unet_file"]


def _load(run: Any, model_folder: Any, path: Path, dtype: str = "default") -> Any:
    target = model_folder("diffusion_models") / path.name
    os.link(path, target)
    return run("FaceCLIPUNetLoader", unet_name=target.name, weight_dtype=dtype)[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["unet.pt", "unet.safetensors", "checkpoint.safetensors"])
def test_every_format_samples_finite_latents_in_every_weight_dtype(
    name: str, dtype: str, unet_files: dict, run: Any, model_folder: Any, sample: Any, prompt: Any
) -> None:
    model = _load(run, model_folder, unet_files[name], dtype)
    weight = model.model.diffusion_model.input_blocks[1][0].in_layers[2].weight
    assert weight.dtype == (DTYPES[dtype] or torch.float32)
    latents = sample(model, prompt("a man"), prompt("blurry"))
    assert latents.isfinite().all() and latents.std() > 0.1


@pytest.mark.parametrize("name", ["unet.pt", "checkpoint.safetensors"])
def test_predicts_what_diffusers_predicts(name: str, unet: Any, unet_files: dict, run: Any, model_folder: Any) -> None:
    model = _load(run, model_folder, unet_files[name]).model
    generator = torch.Generator().manual_seed(1)
    latent, context, pooled = (torch.randn(shape, generator=generator) for shape in ((2, 4, 16, 24), (2, 77, 80), (2, 48)))
    sigma = model.model_sampling.sigmas[[300, 800]]
    size = {"height": 128, "width": 192, "crop_h": 0, "crop_w": 0, "target_height": 128, "target_width": 192}
    with torch.no_grad():
        y = model.encode_adm(pooled_output=pooled, **size)
        noisy = latent * sigma.view(2, 1, 1, 1)
        denoised = model.apply_model(noisy, sigma, c_crossattn=context, y=y)
        predicted = (noisy - denoised) / sigma.view(2, 1, 1, 1)
        expected = unet(
            noisy / (sigma.view(2, 1, 1, 1) ** 2 + 1) ** 0.5,
            torch.tensor([300, 800]),
            encoder_hidden_states=context,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": torch.tensor([[128, 192, 0, 0, 128, 192.0]] * 2)},
        ).sample
    assert (predicted - expected).norm() / expected.norm() < 1e-5


PREDICTIONS = [{}, {"prediction": "v", "zero_terminal_snr": "false"}, {"prediction": "v", "zero_terminal_snr": "true"}]


@pytest.mark.parametrize("known_to_core", [False, True])
@pytest.mark.parametrize("metadata", PREDICTIONS, ids=["epsilon", "v", "v with zero terminal SNR"])
def test_a_unet_that_training_wrote_samples_as_it_was_trained(
    metadata: dict[str, str], known_to_core: bool, unet: Any, run: Any, model_folder: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    import comfy.model_sampling
    import comfy.sd

    by_core = []
    if known_to_core:  # SDXL's own sizes take 5 GB: let this UNet's be the core's SDXL instead
        layout = {"model_channels": 32, "context_dim": 80, "adm_in_channels": 48 + 6 * 256}
        monkeypatch.setattr("comfy.supported_models.SDXL.unet_config", layout)
    load = comfy.sd.load_diffusion_model_state_dict
    monkeypatch.setattr(comfy.sd, "load_diffusion_model_state_dict", lambda *a, **k: by_core.append(1) or load(*a, **k))
    save_file(unet.state_dict(), tmp_path / "unet.safetensors", {"format": "pt", **metadata})
    model = _load(run, model_folder, tmp_path / "unet.safetensors").model
    sampling = model.model_sampling
    v, zero_terminal = metadata.get("prediction") == "v", metadata.get("zero_terminal_snr") == "true"
    assert isinstance(sampling, comfy.model_sampling.V_PREDICTION) == v
    assert bool(by_core) == (known_to_core and v)  # the core tells diffusers' layouts by a list of its own
    assert (sampling.sigmas[-1] > 1000) == zero_terminal
    generator = torch.Generator().manual_seed(1)
    latent, context, pooled = (torch.randn(shape, generator=generator) for shape in ((1, 4, 16, 16), (1, 77, 80), (1, 48)))
    sigma = sampling.sigmas[[500]]
    with torch.no_grad():
        y = model.encode_adm(pooled_output=pooled, width=128, height=128, crop_h=0, crop_w=0, target_height=128, target_width=128)
        noisy = latent * sigma
        denoised = model.apply_model(noisy, sigma, c_crossattn=context, y=y)
        predicted = unet(
            noisy / (sigma**2 + 1) ** 0.5,
            torch.tensor([500]),
            encoder_hidden_states=context,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": torch.tensor([[128, 128, 0, 0, 128, 128.0]])},
        ).sample
    signal = 1 / (sigma**2 + 1) ** 0.5  # x_t = signal x_0 + sqrt(1 - signal^2) noise
    expected = signal * (noisy * signal) - (sigma * signal) * predicted if v else noisy - sigma * predicted
    torch.testing.assert_close(denoised, expected, rtol=1e-3, atol=1e-3)


def test_the_mini_unet_that_comes_with_the_pack_is_an_sdxl_of_the_core(model: Any) -> None:
    import comfy.model_base

    assert type(model.model) is comfy.model_base.SDXL
    assert model.model.model_config.unet_config["context_dim"] == 80
    assert model.model.adm_channels == 48 + 6 * 256


def test_a_core_lora_changes_the_picture_and_leaves_the_model_alone(
    model: Any, core: Any, model_folder: Any, sample: Any, prompt: Any
) -> None:
    stem = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    torch.manual_seed(0)
    lora = {f"{stem}.lora_down.weight": torch.randn(4, 80), f"{stem}.lora_up.weight": torch.randn(64, 4)}
    save_file({**lora, f"{stem}.alpha": torch.tensor(4.0)}, model_folder("loras") / "tiny.safetensors")
    positive, negative = prompt("a man"), prompt("blurry")
    before = sample(model, positive, negative)
    with_lora = core.LoraLoaderModelOnly().load_lora_model_only(model, "tiny.safetensors", 1.0)[0]
    assert len(with_lora.patches) == 1
    assert not torch.equal(sample(with_lora, positive, negative), before)
    assert torch.equal(sample(model, positive, negative), before)


def test_a_core_controlnet_steers_the_picture(
    model: Any, core: Any, model_folder: Any, sample: Any, prompt: Any, identity: Any, mini_controlnet: dict
) -> None:
    save_file(mini_controlnet, model_folder("controlnet") / "tiny.safetensors")
    control = core.ControlNetLoader().load_controlnet("tiny.safetensors")[0]
    positive, negative = prompt("a man", identity), prompt("blurry")
    steered = core.ControlNetApplyAdvanced().apply_controlnet(
        positive, negative, control, torch.rand(1, 128, 128, 3), 1.0, 0.0, 1.0
    )
    latents = sample(model, *steered)
    assert latents.isfinite().all()
    assert not torch.equal(latents, sample(model, positive, negative))


def _sd15() -> dict[str, torch.Tensor]:
    return tiny_unet(
        addition_embed_type=None,
        addition_time_embed_dim=None,
        projection_class_embeddings_input_dim=None,
    ).state_dict()


WRONG_FILES = {
    "sd15": (_sd15, "Stable Diffusion 1.x or 2.x UNet. FaceCLIP conditions SDXL only"),
    "encoder": (lambda: {"face_clip_l.fuser.encoder.x": torch.zeros(1)}, "FaceCLIP encoder. Load it with Load FaceCLIP Encoder"),
    "lora": (lambda: {"lora_unet_x.lora_down.weight": torch.zeros(1)}, "LoRA. Load it with the core node Load LoRA"),
    "vae": (
        lambda: {name: torch.zeros(1) for name in ("decoder.x", "encoder.x", "post_quant_conv.weight")},
        "VAE. Load it with the core node Load VAE",
    ),
    "controlnet": (lambda: {"controlnet_cond_embedding.x": torch.zeros(1)}, "core node Load ControlNet Model"),
}


@pytest.mark.parametrize("kind", WRONG_FILES)
def test_another_kind_of_file_is_named_with_the_loader_that_wants_it(
    kind: str, run: Any, model_folder: Any, tmp_path: Path
) -> None:
    weights, message = WRONG_FILES[kind]
    save_file(weights(), tmp_path / f"{kind}.safetensors")
    with pytest.raises(ValueError, match="has no SDXL UNet in it") as caught:
        _load(run, model_folder, tmp_path / f"{kind}.safetensors")
    assert message in str(caught.value) and f"{kind}.safetensors" in str(caught.value)


class _Code:
    def __reduce__(self) -> tuple:
        return os.getenv, ("HOME",)


def _zero_bytes(path: Path, whole: Path) -> None:
    path.touch()


def _truncated(path: Path, whole: Path) -> None:
    path.write_bytes(whole.read_bytes()[:-1000])


def _with_code(path: Path, whole: Path) -> None:
    path.write_bytes(pickle.dumps({"conv_in.weight": _Code()}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(_zero_bytes, "is empty"), (_truncated, "incomplete|damaged"), (_with_code, "carries Python code")],
)
@pytest.mark.parametrize("name", ["unet.pt", "unet.safetensors"])
def test_a_spoilt_file_is_explained(
    name: str, spoil: Any, message: str, unet_files: dict, run: Any, model_folder: Any, tmp_path: Path
) -> None:
    spoil(tmp_path / name, unet_files[name])
    with pytest.raises(ValueError, match=message):
        _load(run, model_folder, tmp_path / name)


def test_a_unet_that_lacks_tensors_is_refused(unet_files: dict, run: Any, model_folder: Any, tmp_path: Path) -> None:
    weights = load_file(unet_files["unet.safetensors"])
    del weights["mid_block.resnets.0.conv1.weight"]
    save_file(weights, tmp_path / "part.safetensors")
    with pytest.raises(
        ValueError, match=r"a whole SDXL UNet: it lacks 1 of \d+ tensors, among them mid_block\.resnets\.0\.conv1"
    ):
        _load(run, model_folder, tmp_path / "part.safetensors")


def test_a_file_removed_since_the_list_was_made_is_reported_with_its_folders(run: Any) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file gone.pt. Put it in one of these folders: .*diffusion_models"):
        run("FaceCLIPUNetLoader", unet_name="gone.pt")


def test_a_released_file_that_is_missing_is_told_with_its_address_and_size(run: Any) -> None:
    with pytest.raises(FileNotFoundError, match=r"models/faceclip.*https://huggingface.co/ByteDance/FaceCLIP/.*unet.pt \(.*GB"):
        run("FaceCLIPUNetLoader", unet_name="unet.pt")


def test_a_file_in_a_subfolder_is_found_however_its_name_is_spelled(unet_files: dict, run: Any, model_folder: Any) -> None:
    folder = model_folder("diffusion_models") / "sdxl" / "faceclip"
    folder.mkdir(parents=True)
    source = next(path for path in unet_files.values() if path.suffix == ".safetensors")
    shutil.copy(source, folder / "own.safetensors")
    for name in ("sdxl/faceclip/own.safetensors", "sdxl\\faceclip\\own.safetensors"):  # a workflow saved on Windows
        assert run("FaceCLIPUNetLoader", unet_name=name)[0] is not None


@pytest.mark.parametrize("name", ["unet.pt", "unet.safetensors"])
def test_the_bar_moves_while_a_unet_gets_its_weights(name: str, bar: Any, unet_files: dict, run: Any, model_folder: Any) -> None:
    model = _load(run, model_folder, unet_files[name]).model.diffusion_model
    done = [value / total for value, total in bar.shown]
    assert done == sorted(done) and done[-1] == 1 and 1 not in done[:-1]
    assert len(set(done)) > 100 and max(later - before for before, later in itertools.pairwise(done)) < 0.1
    assert not any(layer._load_state_dict_pre_hooks for layer in model.modules())


@pytest.mark.parametrize("part", [0.1, 0.51, 0.9])
def test_cancel_stops_the_loading_of_a_unet_and_the_next_one_is_whole(
    part: float, bar: Any, unet_files: dict, run: Any, model_folder: Any
) -> None:
    import comfy.model_management as management

    whole = _load(run, model_folder, unet_files["unet.pt"]).model.state_dict()
    bar.cancel_at = 1 + int(part * len(bar.shown))
    bar.shown.clear()
    with pytest.raises(management.InterruptProcessingException):
        run("FaceCLIPUNetLoader", unet_name="unet.pt")
    assert len(bar.shown) == bar.cancel_at
    assert not torch.nn.modules.module._global_module_registration_hooks
    bar.cancel_at = 0
    again = run("FaceCLIPUNetLoader", unet_name="unet.pt")[0].model.state_dict()
    assert whole.keys() == again.keys() and all(torch.equal(again[name], tensor) for name, tensor in whole.items())


@pytest.mark.full_size
def test_a_full_size_diffusers_unet_goes_through_the_core(run: Any, model_folder: Any) -> None:
    """SDXL's real shape, 2.6 GB of zeros in fp8: the core's own detection must take it."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        whole = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(5, 10, 20),
            transformer_layers_per_block=(1, 2, 10),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
    zeros = {name: torch.zeros(tensor.shape, dtype=torch.float8_e4m3fn) for name, tensor in whole.state_dict().items()}
    save_file(zeros, model_folder("diffusion_models") / "full.safetensors")
    del zeros
    model = run("FaceCLIPUNetLoader", unet_name="full.safetensors", weight_dtype="fp8_e4m3fn")[0]
    assert model.model.model_config.unet_config["context_dim"] == 2048
    assert model.model.adm_channels == 2816
