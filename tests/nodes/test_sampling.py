"""What an artist sees: identity acts through conditioning alone, so core
nodes compose with it and leave no trace."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

MODELS = Path(__file__).resolve().parents[2] / "models"


def test_a_face_then_none_is_bit_identical_to_never_a_face(run: Any, sample: Any, prompt: Any, identity: Any) -> None:
    model = run("FaceCLIPUNetLoader", unet_name="faceclip_mini_unet.safetensors")[0]
    weights = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    before = sample(model, prompt("a man on a beach"), prompt("blurry"))
    with_face = sample(model, prompt("a man on a beach", identity), prompt("blurry"))
    after = sample(model, prompt("a man on a beach"), prompt("blurry"))
    assert not torch.equal(with_face, before)
    assert torch.equal(after, before)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.model.state_dict().items())


def test_neither_identity_nor_conditioning_is_changed_by_using_it(model: Any, sample: Any, prompt: Any, identity: Any) -> None:
    kept = identity.patch_tokens.clone(), identity.class_token.clone()
    conditioning = prompt("a man", identity, strength=0.7)
    copied = copy.deepcopy(conditioning)
    sample(model, conditioning, prompt("blurry"))
    assert torch.equal(identity.patch_tokens, kept[0]) and torch.equal(identity.class_token, kept[1])
    assert torch.equal(conditioning[0][0], copied[0][0]) and conditioning[0][1].keys() == copied[0][1].keys()


def test_a_batch_of_people_fills_a_batch_of_latents(
    run: Any, encoder: Any, crops: torch.Tensor, model: Any, sample: Any, prompt: Any
) -> None:
    people = run("FaceCLIPEncodeIdentity", encoder=encoder, faces=crops, combine="batch")[0]
    latents = sample(model, prompt("a man", people), prompt("blurry"), batch=3)
    alone = sample(model, prompt("a man", people[0]), prompt("blurry"), batch=3)
    spread = float(latents.std())  # of two steps' latents, which are still mostly noise of that size
    assert torch.allclose(latents[0], alone[0], atol=1e-3 * spread)
    assert not torch.allclose(latents[1], alone[1], atol=1e-1 * spread)


@pytest.mark.parametrize("size", [(128, 128), (48, 200)])
def test_masks_of_any_size_place_two_people(
    size: tuple[int, int], core: Any, model: Any, sample: Any, prompt: Any, run: Any, encoder: Any, crops: torch.Tensor
) -> None:
    left = torch.zeros(1, *size)
    left[:, :, : size[1] // 2] = 1
    people = run("FaceCLIPEncodeIdentity", encoder=encoder, faces=crops, combine="batch")[0]
    placed = [
        core.ConditioningSetMask().append(prompt("a man", people[person]), mask, "default", 1.0)[0]
        for person, mask in enumerate((left, 1 - left))
    ]
    both = core.ConditioningCombine().combine(*placed)[0]
    latents = sample(model, both, prompt("blurry"))
    assert latents.isfinite().all()
    swapped = core.ConditioningCombine().combine(
        core.ConditioningSetMask().append(prompt("a man", people[1]), left, "default", 1.0)[0],
        core.ConditioningSetMask().append(prompt("a man", people[0]), 1 - left, "default", 1.0)[0],
    )[0]
    assert not torch.allclose(sample(model, swapped, prompt("blurry")), latents, atol=1e-3)


def test_chunked_prompts_sample(model: Any, sample: Any, prompt: Any, identity: Any) -> None:
    long = prompt("a man on a beach " * 30, identity, long_prompts="chunk")
    assert sample(model, long, prompt("blurry")).isfinite().all()


def test_the_mini_files_make_a_picture_of_sane_values(core: Any, model: Any, prompt: Any, identity: Any) -> None:
    latent = {"samples": torch.zeros(1, 4, 16, 16)}
    with torch.inference_mode():
        positive, negative = prompt("a man", identity), prompt("blurry")
        result = core.KSampler().sample(model, 3, 12, 5.0, "euler", "ddim_uniform", positive, negative, latent)[0]
        vae = core.VAELoader().load_vae("zz_faceclip_mini_vae.safetensors")[0]
        picture = vae.decode(result["samples"])
        encoded = vae.encode(picture)
    assert 0.3 < result["samples"].std() < 10
    assert picture.shape == (1, 128, 128, 3) and encoded.shape == (1, 4, 16, 16)
    assert picture.std() > 0.05 and 0.2 < picture.mean() < 0.8
    assert encoded.isfinite().all()


def test_ddim_uniform_spaces_fifty_steps_as_the_release_does(run: Any, model_folder: Any) -> None:
    """The workflows choose this scheduler for it: diffusers' Euler with SDXL's own settings ("leading")."""
    import comfy.samplers
    from diffusers import EulerDiscreteScheduler

    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="leading",
        steps_offset=1,
    )
    scheduler.set_timesteps(50)
    # The mini model predicts v, and its file says so; a file that says nothing is of SDXL's own kind.
    save_file(load_file(MODELS / "faceclip" / "faceclip_mini_unet.safetensors"), model_folder("faceclip") / "plain.safetensors")
    model = run("FaceCLIPUNetLoader", unet_name="plain.safetensors")[0]
    found = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "ddim_uniform", 50)
    np.testing.assert_allclose(found.numpy(), scheduler.sigmas.numpy(), rtol=1e-3, atol=1e-4)


def test_the_pack_adds_no_name_that_could_shadow_a_real_model(pack: dict, comfy: Any) -> None:
    import folder_paths

    folders = {name for name, (paths, _) in folder_paths.folder_names_and_paths.items() if any(str(MODELS) in p for p in paths)}
    assert folders == {"faceclip", "vae"}
    names = {path.name for name in folders for path in (MODELS / name).rglob("*.safetensors")}
    assert names == {"faceclip_mini_encoder.safetensors", "faceclip_mini_unet.safetensors", "zz_faceclip_mini_vae.safetensors"}
