"""From photographs to a sampled latent in ComfyUI, by the commands that users type, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from faceclip import FaceCLIPEncoder
from train import join
from train.cache import command as cache
from train.finetune_sdxl import command as finetune_sdxl
from train.finetune_sdxl.config import FinetuneConfig
from train.prepare import command as prepare
from train.pretrain import command as pretrain
from train.run.command_line import PRESETS, parse
from train.run.ranks import Ranks

MODELS = Path(__file__).resolve().parents[2] / "models" / "faceclip"
UNET_CONFIG = PRESETS / "mini_unet.json"
PICTURES, STEPS = 64, 30


def run(command: Callable[[list[str]], int], *words: object, **options: object) -> None:
    """A command with its options as flags; it must succeed."""
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert command([str(word) for word in words] + flags) == 0


@pytest.fixture
def photographs(astronaut: np.ndarray, tmp_path: Path) -> Path:
    """64 cuts of one photograph, of two shapes, in other light and mirrored, each with a caption."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(PICTURES):
        left, top = (int(value) for value in random.integers(60, 110, 2) - (0, 60))
        width, height = ((300, 300), (270, 340))[i % 2]
        picture = Image.fromarray(astronaut).crop((left, top, left + width, top + height))
        if i % 3 == 0:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        light = np.clip(np.asarray(picture, dtype=np.float32) * random.uniform(0.7, 1.2, 3), 0, 255)
        Image.fromarray(light.astype(np.uint8)).save(folder / f"{i:03d}.jpg", quality=95)
        (folder / f"{i:03d}.txt").write_text(f"portrait number {i} of an astronaut in front of a flag")
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.mark.training
def test_photographs_become_an_encoder_and_a_unet_that_comfyui_samples_with(
    photographs: Path, work: Path, vae: Path, read_log: Callable, comfy: Any, pack: dict[str, type], monkeypatch: Any
) -> None:
    report = prepare.prepare(str(photographs), str(work / "shards"))
    assert report.kept >= 0.9 * PICTURES
    run(prepare.main, photographs, work / "guided", "--no-faces", workers=1)
    for branch in ("l", "g"):
        pretrain_branch(branch, work, read_log)
    run(join.main, work / "l" / "encoder.safetensors", work / "g" / "encoder.safetensors", work / "encoder.safetensors")
    finetune(work, vae)
    sample_in_comfyui(work, pack, monkeypatch)


def pretrain_branch(branch: str, work: Path, read_log: Callable) -> None:
    """Cache what is frozen, then train on the cache."""
    start = MODELS / "faceclip_mini_encoder.safetensors"
    towers = {"teacher": "mini", "size": "mini", "branch": branch, "init_encoder": start}
    features, guided = work / f"features_{branch}", work / f"guided_features_{branch}"
    run(cache.main, "pretrain", "--captions", data=work / "shards", out=features, **towers)
    run(cache.main, "pretrain", "--captions", "--no-faces", data=work / "guided", out=guided, **towers)
    cached = {"features": features, "guided_features": guided, "guided": work / "guided"}
    length = {"steps": STEPS, "batch_size": 8, "save_every": STEPS, "log_every": 1}
    run(pretrain.main, config="mini", data=work / "shards", out=work / branch, **towers, **cached, **length)
    losses = [line["loss"] for line in read_log(work / branch) if line["kind"] == "train"]
    assert len(losses) == STEPS and np.mean(losses[-10:]) < np.mean(losses[:10])


def finetune(work: Path, vae: Path) -> None:
    """Cache latents and faces, then train on the cache."""
    encoder, unet = work / "encoder.safetensors", MODELS / "faceclip_mini_unet.safetensors"
    run(cache.main, "latents", data=work / "shards", out=work / "latents", vae=vae, resolution=128)
    run(cache.main, "pretrain", data=work / "shards", out=work / "faces", encoder=encoder)
    cached = {"latents": work / "latents", "features": work / "faces"}
    length = {"steps": STEPS, "batch_size": 8, "save_every": STEPS, "log_every": 1, "lr": 1e-3}
    files = {"data": work / "shards", "encoder": encoder, "unet": unet, "out": work / "sdxl"}
    options = {"config": "mini_sdxl", **files, **cached, **length}
    before = unseen_loss(options)
    run(finetune_sdxl.main, **options)
    assert unseen_loss({**options, "unet": work / "sdxl" / "unet_last", "unet_config": UNET_CONFIG}) < before


def unseen_loss(options: dict[str, object]) -> float:
    """Mean loss over steps whose draws of noise and timesteps the run did not see."""
    arguments = [str(word) for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    task = finetune_sdxl.build(parse(FinetuneConfig, arguments), Ranks(0, 1, torch.device("cpu")))
    return float(np.mean([task.backward(task.batch(step), step)["loss"] for step in range(STEPS, STEPS + 5)]))


def sample_in_comfyui(work: Path, pack: dict[str, type], monkeypatch: pytest.MonkeyPatch) -> None:
    """Both files through the pack's loaders, a face through its nodes, and the core's sampler at the end."""
    import importlib

    import folder_paths

    folder = work / "models"
    folder.mkdir()
    (work / "encoder.safetensors").rename(folder / "trained_encoder.safetensors")
    (work / "sdxl" / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "trained_unet.safetensors")
    paths, extensions = folder_paths.folder_names_and_paths["faceclip"]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "faceclip", ([*paths, str(folder)], extensions))

    def node(name: str, **inputs: Any) -> tuple:
        widgets = {i.id: i.default for i in pack[name].define_schema().inputs if getattr(i, "default", None) is not None}
        return pack[name].execute(**{**widgets, **inputs}).result

    trained = FaceCLIPEncoder.from_file(folder / "trained_encoder.safetensors")
    assert trained.config.width == 80
    faces = torch.rand(1, 448, 448, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        (encoder,) = node("FaceCLIPEncoderLoader", encoder_name="trained_encoder.safetensors", dtype="fp32")
        (identity,) = node("FaceCLIPEncodeIdentity", encoder=encoder, faces=faces)
        sized = {"encoder": encoder, "width": 128, "height": 128}
        prompts = {"prompt": "an astronaut", "negative_prompt": "blurry"}
        positive, negative = node("FaceCLIPTextEncode", identity=identity, **prompts, **sized)
        (model,) = node("FaceCLIPUNetLoader", unet_name="trained_unet.safetensors")
        core = importlib.import_module("nodes")
        latent = {"samples": torch.zeros(1, 4, 16, 16)}
        (result,) = core.KSampler().sample(model, 7, 4, 5.0, "euler", "ddim_uniform", positive, negative, latent)
        (without,) = core.KSampler().sample(model, 7, 4, 5.0, "euler", "ddim_uniform", negative, negative, latent)
    expected = trained.encode(["an astronaut"], trained.encode_faces(faces.movedim(-1, 1))).embeddings
    torch.testing.assert_close(positive[0][0], expected, rtol=1e-3, atol=1e-4)
    assert result["samples"].isfinite().all() and 0.1 < result["samples"].std() < 20
    assert not torch.allclose(result["samples"], without["samples"], atol=1e-3)
