"""The mini model's files: an untrained UNet to start from, what the pack
ships, and what it is worth on held-out people."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from faceclip import FaceCLIPEncoder, Identity
from faceclip.checkpoint import read_state_dict, write_safetensors
from faceclip.metrics import measure_identity_map
from faceclip.pipeline import FaceCLIPPipeline
from faceclip.sdxl_files import load_unet
from faceclip.tensor_file import open_tensor_file

from ..frozen.vae import load_vae
from ..proof.arms.generation import Casting, judge_pictures, picture_scenes, small_pipeline
from ..proof.arms.measures import joint_representation, read_people
from ..proof.plan import Plan
from ..proof.teachers.autoencoder import to_comfyui
from ..proof.teachers.quality import NEIGHBOURS, reconstruct
from ..proof.workshop import Workshop
from ..run.command_line import PRESETS
from .colours import colours_followed

UNET_CONFIG = PRESETS / "mini_unet.json"
JUDGE = "judge.safetensors"
METADATA = {
    "trained": "true",
    "preset": "mini",
    "note": "Trained on drawn portraits by `python -m train.mini`; see models/README.md.",
    "license": "Apache-2.0",
}


def new_mini_unet(folder: Path) -> None:
    """Write the untrained UNet as a diffusers folder, always the same."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet: Any = UNet2DConditionModel.from_config(json.loads(UNET_CONFIG.read_text()))
    unet.save_pretrained(folder)


def write_mini(shop: Workshop, work: Path, run: Path, autoencoder: Path) -> dict[str, float]:
    """Write the three files below `work`/models in bf16, laid out as the pack's, and `work`/judge.safetensors.

    run: the training run whose UNet and encoder they are. Returns their sizes in MiB.
    """
    models = work / "models"
    paths = [models / f"faceclip/faceclip_mini_{name}.safetensors" for name in ("encoder", "unet")]
    paths.append(models / "vae/zz_faceclip_mini_vae.safetensors")
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    FaceCLIPEncoder.from_file(run / "encoder.safetensors").to(torch.bfloat16).save(paths[0], METADATA)
    unet = run / "unet" / "diffusion_pytorch_model.safetensors"
    # What it predicts comes along: Load FaceCLIP UNet sets ComfyUI's sampling by it.
    write_safetensors(paths[1], _halved(unet), {**open_tensor_file(unet).metadata, **METADATA})
    to_comfyui(load_vae(autoencoder, torch.float32).vae, paths[2], metadata=METADATA)
    paths.append(work / JUDGE)
    write_safetensors(paths[-1], _halved(shop.teacher("judge")), {**METADATA, "format": "judge"})
    return {path.name: path.stat().st_size / 2**20 for path in paths}


def measure_mini(shop: Workshop, work: Path, run: Path, autoencoder: Path) -> dict[str, Any]:
    """Measure the finished files on people, and scenes, that none of the networks has seen; keep the pictures.

    `person` are pictures made of the person they are judged against, `shuffled` those of the same scenes made
    of the person before, `real` the scenes' own pictures, `autoencoder` these after the autoencoder.

    `colours` are the shares of pictures whose clothes have the colour told.
    """
    encoder = FaceCLIPEncoder.from_file(work / "models/faceclip/faceclip_mini_encoder.safetensors").eval().requires_grad_(False)
    unet = load_unet(work / "models/faceclip/faceclip_mini_unet.safetensors", UNET_CONFIG, torch.float32)
    pipeline = small_pipeline(encoder, unet, run / "scheduler", autoencoder)
    casting = Casting.of(shop)
    captions, numbers, identity = read_people(encoder, shop.shards("main", "held_out"))
    made = {
        "person": picture_scenes(pipeline, identity, casting, shop.plan),
        "shuffled": picture_scenes(pipeline, identity, casting, shop.plan, casting.reference.roll(1)),
        "real": casting.real,
        "autoencoder": reconstruct(autoencoder, casting.real)[1],
    }
    for name, pictures in made.items():
        np.save(work / f"{name}.npy", pictures.numpy())
    found: dict[str, Any] = {name: judge_pictures(shop, pictures, casting) for name, pictures in made.items()}
    found["colours"] = {name: colours_followed(made[name], casting.captions) for name in ("person", "real")}
    joint = joint_representation(encoder, captions, identity)
    found["knn"] = measure_identity_map(joint, numbers, NEIGHBOURS).purity
    ceiling, own, other = (found[name]["face"] for name in ("real", "person", "shuffled"))
    found["seconds_per_picture"] = seconds_per_picture(pipeline, casting.people.captions[0], identity[:1], shop.plan)
    found["face_of_ceiling"] = own / ceiling
    found["face_above_shuffled"] = own - other
    found["clip_t_of_real"] = found["person"]["clip_t"] / found["real"]["clip_t"]
    return found


def seconds_per_picture(pipeline: FaceCLIPPipeline, caption: str, identity: Identity, plan: Plan) -> float:
    """Of one picture made alone, prompt, sampling and decoding; the median of five."""
    spent = []
    for seed in range(5):
        began = time.perf_counter()
        pipeline(
            caption,
            identity,
            negative_prompt="",
            width=plan.size,
            height=plan.size,
            steps=plan.sampler_steps,
            guidance=plan.guidance,
            seed=seed,
        )
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


def summary_of(stages: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The figures that the model is known by, from what its stages noted."""
    found = {stage["stage"]: stage["found"] for stage in stages}
    measured = found["measure"]
    return {
        "likeness_of_ceiling": measured["face_of_ceiling"],
        "above_shuffled": measured["face_above_shuffled"],
        "right_person_first": measured["person"]["first"],
        "clip_t_of_real": measured["clip_t_of_real"],
        "seconds_per_picture": measured["seconds_per_picture"],
        "mebibytes": sum(size for name, size in found["export"].items() if name != JUDGE),
    }


def _halved(path: Path) -> dict[str, Tensor]:
    """A file's tensors, in bf16 where they are floats."""
    return {name: t.to(torch.bfloat16) if t.is_floating_point() else t for name, t in read_state_dict(path).items()}
