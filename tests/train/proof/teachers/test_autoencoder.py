"""The miniature's autoencoder: where training starts, what it looks at, and its two formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from train.proof.fitting import Schedule
from train.proof.teachers.autoencoder import (
    CROP,
    SDXL_SCALE,
    WIDTHS,
    face_part,
    narrowed,
    new_autoencoder,
    random_part,
    refine_decoder,
    sharpen_decoder,
    to_comfyui,
    widen,
)
from train.proof.teachers.pictures import Pictures

PICTURES = F.interpolate(torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), scale_factor=8) * 2 - 1


@torch.no_grad()
def test_before_training_three_latents_are_the_mean_colours_of_eight_by_eight_pixels() -> None:
    noisy = (PICTURES + 0.2 * torch.randn(PICTURES.shape)).clamp(-1, 1)
    latents = new_autoencoder(8).encoder(noisy)
    torch.testing.assert_close(latents[:, :3], F.avg_pool2d(noisy, 8) * 2)


@torch.no_grad()
def test_before_training_the_decoder_enlarges_those_colours() -> None:
    flat = torch.tensor([-0.5, 0.0, 0.4])[None, :, None, None].expand(1, 3, 64, 64)
    vae = new_autoencoder(8)
    middle = vae.decoder(vae.encoder(flat))[..., 20:-20, 20:-20]  # the picture's edge is padded with black
    torch.testing.assert_close(middle, flat[..., 20:-20, 20:-20], atol=0.1, rtol=0)  # latents go through a soft clamp


@torch.no_grad()
def test_a_widened_autoencoder_is_the_same_function() -> None:
    vae = new_autoencoder(8)
    for parameter in vae.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    wide = widen(vae)
    assert wide.encoder.layers[0].weight.shape[0] == 64
    latents = vae.encoder(PICTURES)
    torch.testing.assert_close(wide.encoder(PICTURES), latents)
    torch.testing.assert_close(wide.decoder(latents), vae.decoder(latents))


def test_the_file_for_comfyui_has_taesds_shapes_whatever_the_width(tmp_path: Path) -> None:
    to_comfyui(new_autoencoder(8), tmp_path / "vae.safetensors", torch.float32)
    tensors = load_file(tmp_path / "vae.safetensors")
    assert tensors["taesd_encoder.0.weight"].shape == (64, 3, 3, 3)
    assert tensors["taesd_decoder.1.weight"].shape == (64, 4, 3, 3)
    assert tensors["vae_scale"] == torch.tensor(SDXL_SCALE)


def test_parts_of_large_pictures_are_seen_halves_of_them_and_small_ones_whole() -> None:
    large = torch.arange(128.0 * 128).reshape(1, 1, 128, 128)
    halved = F.avg_pool2d(large, 2)
    kinds = set()
    for _ in range(20):
        part = random_part(large)
        assert part.shape == (1, 1, CROP, CROP)
        kinds.add(torch.equal(part, halved))
        if not torch.equal(part, halved):
            top, left = divmod(int(part[0, 0, 0, 0]), 128)
            assert torch.equal(part, large[..., top : top + CROP, left : left + CROP])
    assert kinds == {True, False}
    small = torch.zeros(2, 3, CROP, CROP)
    assert random_part(small) is small


def test_a_part_about_the_face_holds_the_face_and_stays_within_the_picture() -> None:
    images = torch.zeros(2, 3, 128, 128)
    landmarks = torch.tensor([[[0.6, 0.4]], [[0.02, 0.99]]]).expand(2, 5, 2)
    images[0, :, 51, 77] = images[1, :, 126, 2] = 1  # at their landmarks
    part = face_part(images, landmarks)
    assert part.shape == (2, 3, CROP, CROP) and part.amax((1, 2, 3)).tolist() == [1, 1]
    small = torch.zeros(2, 3, CROP, CROP)
    assert face_part(small, landmarks) is small


@pytest.mark.parametrize("refine", [refine_decoder, sharpen_decoder])
def test_refining_the_decoder_leaves_the_latents_and_looks_at_people_alone(refine: Callable[..., list[float]]) -> None:
    images = torch.stack([torch.full((3, 64, 64), 255), torch.full((3, 64, 64), 60)]).byte()  # an object, a person
    identity = torch.tensor([-1, 0])
    both = Pictures(images, torch.empty(2, 0), torch.zeros(2, 5, 2), identity, ["", ""], ["", ""], torch.zeros(2, 29))
    vae, schedule = new_autoencoder(8), Schedule(steps=4, batch=1)
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    losses = refine(vae, both, schedule)
    changed = {name.split(".")[0] for name, tensor in vae.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"decoder"}
    assert losses == refine(new_autoencoder(8), both[torch.tensor([1])], schedule)


def test_widths_by_resolution_are_the_same_function_as_diffusers_64_channels() -> None:
    narrow = new_autoencoder(WIDTHS, seed=3)
    for parameter in narrow.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    wide, pictures = widen(narrow), torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        latents = narrow.encoder(pictures)
        torch.testing.assert_close(wide.encoder(pictures), latents)
        torch.testing.assert_close(wide.decoder(latents), narrow.decoder(latents))
    again = narrowed(wide, WIDTHS).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in narrow.state_dict().items())
    assert sum(p.numel() for p in narrow.parameters()) < sum(p.numel() for p in wide.parameters()) * 0.7
