"""The workflows for FLUX on a real server: tiny T5, CLIP-L and FaceT5,
and a transformer of one block of either kind.

What the core's detection does not allow to be small is full: the transformer's width, of 3072. Its own
DualCLIPLoader, which knows T5-XXL alone, is left out for the tests' TinyFluxCLIP; that node is the only one
that is not the workflow's own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from demo.client import ComfyClient, GraphError, Prompt
from demo.graph import read_workflow, shown_pictures, template, to_prompt, with_photo
from faceclip.flux.convert import convert_facet5, convert_transformer

from ..flux_core import flux_transformer
from ..golden import golden_t5

pytestmark = pytest.mark.server

STEPS = 1
TINY = {
    "face_t5_encoder.pt": "tiny_facet5.pt",
    "t5xxl_fp16.safetensors": "tiny_t5.safetensors",
    "clip_l.safetensors": "tiny_clip.safetensors",
    "dit.pt": "tiny_dit.pt",
    "ae.safetensors": "taef1",
}
SIZE = {"width": 64, "height": 64}


@pytest.fixture(scope="module", autouse=True)
def _tiny_files(server_base: Path, comfy: object) -> None:
    from comfy.taesd.taesd import TAESD

    models = server_base / "models"
    for folder in ("faceclip", "text_encoders", "diffusion_models", "vae_approx"):
        (models / folder).mkdir(parents=True, exist_ok=True)
    facet5 = golden_t5(models / "faceclip" / TINY["face_t5_encoder.pt"]).file
    t5, clip = (models / "text_encoders" / TINY[name] for name in ("t5xxl_fp16.safetensors", "clip_l.safetensors"))
    convert_facet5(facet5, models / "faceclip" / "tiny_own.safetensors", torch.float32, t5xxl=t5, clip_l=clip)
    dit = models / "diffusion_models" / TINY["dit.pt"]
    torch.save(flux_transformer(heads=24, head_width=128, depth=(1, 1), dtype=torch.bfloat16), dit)
    convert_transformer(dit, dit.with_suffix(".safetensors"), torch.float8_e4m3fn)
    vae, generator = TAESD(latent_channels=16), torch.Generator().manual_seed(0)
    for part in ("encoder", "decoder"):
        # The core's layers come without values.
        shapes = {name: t.shape for name, t in getattr(vae, f"taesd_{part}").state_dict().items()}
        weights = {
            name: torch.randn(shape, generator=generator) * max(1, shape[1:].numel()) ** -0.5 for name, shape in shapes.items()
        }
        save_file(weights, models / "vae_approx" / f"taef1_{part}.safetensors")


def tiny(title: str, client: ComfyClient, photo: str, steps: int) -> Prompt:
    """A workflow with a photo, the tiny files, a small picture and few steps."""
    prompt = with_photo(to_prompt(read_workflow(template(title)), client.get("/object_info")), photo)
    for node in prompt.values():
        inputs = node["inputs"]
        inputs.update({key: TINY[value] for key, value in inputs.items() if isinstance(value, str) and value in TINY})
        inputs.update({key: value for key, value in SIZE.items() if key in inputs and not isinstance(inputs[key], list)})
        if node["class_type"] == "DualCLIPLoader":
            node["class_type"], node["inputs"] = "TinyFluxCLIP", {k: v for k, v in inputs.items() if k.startswith("clip_name")}
        if node["class_type"] == "KSampler":
            inputs["steps"] = steps
        if node["class_type"] == "MaskComposite" and inputs["x"]:
            inputs["x"] = SIZE["width"] // 2
    return prompt


def pictures(client: ComfyClient, prompt: Prompt) -> list[np.ndarray]:
    run = client.run(prompt)
    return [np.asarray(picture) for picture in client.pictures(run, shown_pictures(prompt)["result"])]


def only(prompt: Prompt, kind: str) -> dict:
    return next(node["inputs"] for node in prompt.values() if node["class_type"] == kind)


def test_the_whole_graph_runs_and_the_face_changes_the_picture(client: ComfyClient, photo: str) -> None:
    prompt = tiny("FLUX portrait", client, photo, steps=STEPS)
    (with_face,) = pictures(client, prompt)
    assert with_face.shape == (64, 64, 3) and with_face.std() > 2
    only(prompt, "FaceCLIPT5TextEncode")["strength"] = 0.0
    (without,) = pictures(client, prompt)
    assert not np.array_equal(with_face, without)


def test_two_people_share_a_picture(client: ComfyClient, photo: str) -> None:
    (made,) = pictures(client, tiny("FLUX two people", client, photo, steps=STEPS))
    assert made.shape == (64, 64, 3) and made.std() > 2


def test_converted_files_run_and_a_saved_identity_serves(client: ComfyClient, photo: str, server_base: Path) -> None:
    """The saved identity of the session is the mini model's, of another face
    tower: it is refused, and a fitting one is not."""
    prompt = tiny("FLUX saved person", client, photo, steps=STEPS)
    with pytest.raises(GraphError, match=r"FaceCLIPT5TextEncode.*made by another encoder"):
        client.run(prompt)
    from faceclip import FaceT5Encoder

    folder = server_base / "output" / "faceclip_identities"
    face = torch.rand(1, 3, 448, 448, generator=torch.Generator().manual_seed(0))
    encoder = FaceT5Encoder.from_file(server_base / "models" / "faceclip" / TINY["face_t5_encoder.pt"])
    encoder.encode_faces(face).save(folder / "flux_person.safetensors")
    only(prompt, "FaceCLIPLoadIdentity")["file_name"] = "flux_person.safetensors"
    only(prompt, "FaceCLIPT5Loader")["facet5_name"] = "tiny_own.safetensors"
    only(prompt, "UNETLoader")["unet_name"] = "tiny_dit.safetensors"
    (made,) = pictures(client, prompt)
    assert made.shape == (64, 64, 3) and made.std() > 2


def test_an_sdxl_model_behind_it_is_named_before_the_sampler_meets_it(client: ComfyClient, photo: str) -> None:
    prompt = tiny("FLUX portrait", client, photo, steps=STEPS)
    sampler = only(prompt, "KSampler")
    prompt["900"] = {
        "class_type": "FaceCLIPUNetLoader",
        "inputs": {"unet_name": "faceclip_mini_unet.safetensors", "weight_dtype": "default"},
    }
    prompt["901"] = {"class_type": "EmptyLatentImage", "inputs": {**SIZE, "batch_size": 1}}
    sampler["model"], sampler["latent_image"] = ["900", 0], ["901", 0]
    with pytest.raises(GraphError, match=r"FaceCLIPT5TextEncode.*for FLUX.* faceclip_mini_unet.safetensors is an SDXL UNet"):
        client.run(prompt)
