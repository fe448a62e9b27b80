"""How good teachers and judges are: on held-out people and objects, before anything is made with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from faceclip import FaceCLIPConfig
from faceclip.checkpoint import read_state_dict
from faceclip.metrics import class_embeddings, imagenet_templates, measure_identity_map, paired_cosine, zero_shot_accuracy
from faceclip.model.face_tower import FaceTower

from ...data.captions import token_ids
from ...frozen.teacher import mini_clip
from ...frozen.vae import load_vae
from ..plan import BRANCH
from ..workshop import Workshop
from .clip import as_clip_sees
from .judge import load_trained_judge
from .pictures import Pictures, load_pictures

BATCH = 128
NEIGHBOURS = 5


def clip_quality(shop: Workshop, path: Path | None = None, branch: str = BRANCH) -> dict[str, Any]:
    """Zero-shot accuracy on held-out objects, and the leak: how well the
    image embedding tells held-out people apart.

    Of the proof's teacher, or of another CLIP that `train_clip` wrote.
    """
    clip = load_mini_clip(path or shop.teacher("clip"), branch)
    objects, people = held_out(shop, "guided_held_out"), held_out(shop).people()
    return {
        "zero_shot": clip_zero_shot(clip, objects, imagenet_templates()[: shop.plan.templates]),
        "zero_shot_plain": clip_zero_shot(clip, objects, ["a photo of a {}".format]),
        "chance": 1 / len(set(objects.classes)),
        **_identity(clip_images(clip, people.images), people, "leak"),
    }


def judge_clip_quality(shop: Workshop) -> dict[str, Any]:
    """Zero-shot accuracy, and the cosine of real pictures with their captions and with those of others."""
    clip = load_mini_clip(shop.teacher("judge_clip"), "g")
    objects, people = held_out(shop, "guided_held_out"), held_out(shop)
    images, texts = clip_images(clip, people.images), clip_texts(clip, people.captions)
    return {
        "zero_shot": clip_zero_shot(clip, objects, imagenet_templates()[: shop.plan.templates]),
        "own_caption": float(paired_cosine(images, texts).mean()),
        "other_caption": float(paired_cosine(images, texts.roll(shop.plan.pictures + 1, 0)).mean()),
    }


def face_tower_quality(shop: Workshop) -> dict[str, Any]:
    """How well the class token tells held-out people apart."""
    people = held_out(shop, crops=True).people()
    tower = FaceTower(FaceCLIPConfig.preset("mini").branches[BRANCH].face)
    tower.load_state_dict(read_state_dict(shop.teacher("face_tower")))
    tower.eval()
    tokens = _batches(lambda crops: tower(crops.float() / 255)[0], people.crops)
    return {**_identity(tokens, people, "knn"), **_cosines(tokens, people)}


def judge_quality(shop: Workshop) -> dict[str, Any]:
    """The same of the judge, on whole pictures."""
    people = held_out(shop).people()
    vectors = load_trained_judge(shop.teacher("judge")).embed(people.images)
    return {**_identity(vectors, people, "knn"), **_cosines(vectors, people)}


def autoencoder_quality(shop: Workshop, path: Path | None = None) -> dict[str, Any]:
    """PSNR of held-out pictures in dB at both sides, and the spread of their latents, which a UNet expects near 1.

    Of the teacher, or of another autoencoder in diffusers' format.
    """
    found: dict[str, Any] = {}
    for side in sorted({shop.plan.size, shop.plan.world_size}):
        images = load_pictures(shop.shards("main", "held_out"), side).images[: 4 * BATCH]
        latents, decoded = reconstruct(path or shop.teacher("autoencoder"), images)
        error = ((decoded.float() - images.float()) / 255).square().flatten(1).mean(1)
        found[f"psnr_{side}px"] = float((-10 * error.log10()).mean())
        found |= {"latent_mean": float(latents.mean()), "latent_std": float(latents.std())}
    return found


@torch.no_grad()
def reconstruct(autoencoder: Path, images: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 [N, 3, S, S] -> latents, and uint8 pictures after the
    autoencoder: the best that a generated picture can be."""
    vae = load_vae(autoencoder, torch.float32).vae
    latents = torch.cat([vae.encode(part.float() / 127.5 - 1).latents for part in images.split(BATCH)])
    decoded = torch.cat([vae.decode(part).sample for part in latents.split(BATCH)])
    return latents, ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte()


def held_out(shop: Workshop, part: str = "held_out", crops: bool = False) -> Pictures:
    """The main world's pictures of people or objects that nothing is trained on."""
    return load_pictures(shop.shards("main", part), shop.plan.size, crops=crops)


def load_mini_clip(path: Path, branch: str) -> Any:
    """A CLIP that `train_clip` wrote, in eval mode."""
    clip = mini_clip(FaceCLIPConfig.preset("mini").branches[branch].text)
    clip.load_state_dict(read_state_dict(path))
    return clip.eval().requires_grad_(False)


def clip_images(clip: Any, images: Tensor) -> Tensor:
    """uint8 [N, 3, S, S] -> unit vectors [N, d]."""
    return F.normalize(_batches(lambda part: clip.encode_image(as_clip_sees(part)), images), dim=-1)


def clip_texts(clip: Any, texts: Sequence[str]) -> Tensor:
    """N texts -> unit vectors [N, d]."""
    return F.normalize(_batches(clip.encode_text, token_ids(texts, [False] * len(texts))), dim=-1)


def clip_zero_shot(clip: Any, objects: Pictures, templates: Sequence[Callable[[str], str]]) -> float:
    """Share of pictures whose class is the nearest text, over those sentences around its name."""
    names, labels = class_labels(objects)
    classes = class_embeddings(lambda texts: clip_texts(clip, texts), names, templates)
    return zero_shot_accuracy(clip_images(clip, objects.images), classes, labels).top1


def class_labels(objects: Pictures) -> tuple[list[str], list[int]]:
    """The classes' names, and each picture's."""
    names = sorted(set(objects.classes))
    return names, [names.index(name) for name in objects.classes]


def _identity(features: Tensor, people: Pictures, name: str) -> dict[str, float]:
    found = measure_identity_map(features, people.identity.tolist(), NEIGHBOURS)
    return {name: found.purity, f"{name}_chance": found.chance}


def _cosines(features: Tensor, people: Pictures) -> dict[str, float]:
    """Mean cosine of two pictures of one person and of two people, and how often the former is the larger (AUC)."""
    from sklearn.metrics import roc_auc_score

    unit = F.normalize(features, dim=-1)
    row, column = torch.triu_indices(len(unit), len(unit), 1)
    cosine = (unit @ unit.T)[row, column]
    same = people.identity[row] == people.identity[column]
    auc = roc_auc_score(same.numpy(), cosine.numpy())
    return {"same_person": float(cosine[same].mean()), "two_people": float(cosine[~same].mean()), "auc": float(auc)}


@torch.no_grad()
def _batches(network: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    return torch.cat([network(part) for part in rows.split(BATCH)])
