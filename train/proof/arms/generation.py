"""Pictures of held-out people in held-out scenes, and what the judges say of them: Face Sim and CLIP-T."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from faceclip import FaceCLIPEncoder, Identity
from faceclip.metrics import likeness, own_scores, paired_cosine
from faceclip.pipeline import FaceCLIPPipeline, best_device
from faceclip.sdxl_files import sdxl_pipeline

from ..plan import Arm, Plan
from ..teachers.judge import Judge, load_trained_judge
from ..teachers.pictures import Pictures
from ..teachers.quality import clip_images, clip_texts, held_out, load_mini_clip, reconstruct
from ..workshop import Workshop
from .measures import read_people
from .training import trained_encoder

AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class Casting:
    """Who is shown where.

    people: the held-out pictures. The others are rows of theirs: of each person the first is the reference, some
    are scenes to generate, the rest is what the judge compares with.

    reference: [P]. scenes: [P, S]. gallery: [P, G].
    """

    people: Pictures
    reference: Tensor
    scenes: Tensor
    gallery: Tensor

    @staticmethod
    def of(shop: Workshop, crops: bool = False) -> Casting:
        """Of the held-out people, in as many scenes as the plan has; with `crops`, of their faces, too."""
        people, scenes = held_out(shop, crops=crops), shop.plan.scenes
        rows = torch.stack([torch.nonzero(people.identity == person)[:, 0] for person in people.identity.unique()])
        return Casting(people, rows[:, 0], rows[:, 1 : 1 + scenes], rows[:, 1 + scenes :])

    @property
    def person(self) -> list[int]:
        """[P S]: the place among P of who is shown in each scene."""
        return [person for person in range(len(self.scenes)) for _ in range(self.scenes.shape[1])]

    @property
    def captions(self) -> list[str]:
        """[P S]: each scene's prompt."""
        return [self.people.captions[row] for row in self.scenes.flatten().tolist()]

    @property
    def real(self) -> Tensor:
        """uint8 [P S, 3, H, W]: the scenes' own pictures."""
        return self.people.images[self.scenes.flatten()]


def generate(shop: Workshop, arm: Arm, seed: int) -> dict[str, Any]:
    """Make an arm's pictures, keep them, and judge them."""
    casting = Casting.of(shop)
    pipeline = _pipeline(shop, arm, seed)
    _, _, identity = read_people(pipeline.encoder, shop.shards("main", "held_out"))
    pictures = picture_scenes(pipeline, identity, casting, shop.plan)
    path = shop.run(arm, seed, "generate") / "pictures.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, pictures.numpy())
    return judge_pictures(shop, pictures, casting)


def measure_bounds(shop: Workshop) -> dict[str, Any]:
    """What real pictures of the same scenes score, and real pictures after
    the autoencoder: the rows to compare with."""
    casting = Casting.of(shop)
    bounds = {"real": judge_pictures(shop, casting.real, casting)}
    bounds["autoencoder"] = judge_pictures(shop, reconstruct(shop.teacher("autoencoder"), casting.real)[1], casting)
    return {f"{name}_{measure}": value for name, found in bounds.items() for measure, value in found.items()}


def judge_pictures(shop: Workshop, pictures: Tensor, casting: Casting) -> dict[str, float]:
    """`face`: the judge's mean cosine with other pictures of the person;
    `shuffled`: with pictures of all other people;
    `first`: how often nobody's pictures are more alike than the person's; `clip_t`: the judge CLIP's cosine with
    the prompt; `clip_t_shuffled`: with the prompt of another picture.

    Args:
        pictures: uint8 [P S, 3, H, W], in the order of `casting.scenes`.
    """
    judge = load_trained_judge(shop.teacher("judge"))
    scores = _face_scores(judge, pictures, casting)
    own = own_scores(scores, casting.person)
    others = (scores.sum(1) - own) / (scores.shape[1] - 1)
    clip = load_mini_clip(shop.teacher("judge_clip"), "g")
    prompts = clip_texts(clip, casting.captions)
    images = clip_images(clip, pictures)
    return {
        "face": float(own.mean()),
        "shuffled": float(others.mean()),
        "first": float((own >= scores.max(1)).mean()),
        "clip_t": float(paired_cosine(images, prompts).mean()),
        "clip_t_shuffled": float(paired_cosine(images, prompts.roll(casting.scenes.shape[1] + 1, 0)).mean()),
    }


def _face_scores(judge: Judge, pictures: Tensor, casting: Casting) -> np.ndarray:
    """[N, P]: each picture's mean cosine with each person's gallery."""
    gallery = judge.embed(casting.people.images[casting.gallery.flatten()]).unflatten(0, casting.gallery.shape)
    return likeness([row[None] for row in judge.embed(pictures).numpy()], gallery.mean(1).numpy())


def picture_scenes(
    pipeline: FaceCLIPPipeline,
    identity: Identity,
    casting: Casting,
    plan: Plan,
    references: Tensor | None = None,
) -> Tensor:
    """Make the picture of each scene, of the person it shows: uint8 [P S, 3, H, W].

    `identity` has a row for each of the people's pictures.

    `references` [P] are other rows to take identities from.
    """
    captions, size = casting.captions, plan.size
    chosen = casting.reference if references is None else references
    faces = chosen[torch.tensor(casting.person)].tolist()
    made: list[np.ndarray] = []
    for start in range(0, len(captions), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        pictures = pipeline(
            [caption.replace("(", r"\(").replace(")", r"\)") for caption in captions[part]],
            identity[faces[part]],
            negative_prompt="",
            width=size,
            height=size,
            steps=plan.sampler_steps,
            guidance=plan.guidance,
            seed=start,
        )
        made += [np.asarray(picture) for picture in pictures]
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).contiguous()


def small_pipeline(encoder: FaceCLIPEncoder, unet: Any, scheduler: Path, vae: Path) -> FaceCLIPPipeline:
    """Sampling around a small UNet, with a scheduler's and an autoencoder's folder."""
    import diffusers

    sdxl = sdxl_pipeline(
        unet,
        diffusers.AutoencoderTiny.from_pretrained(vae),  # pyright: ignore
        diffusers.EulerDiscreteScheduler.from_pretrained(scheduler),  # pyright: ignore
    )
    sdxl.set_progress_bar_config(disable=True)
    return FaceCLIPPipeline(encoder, sdxl, best_device())


def _pipeline(shop: Workshop, arm: Arm, seed: int) -> FaceCLIPPipeline:
    import diffusers

    run = shop.run(arm, seed, "finetune")
    unet = diffusers.UNet2DConditionModel.from_pretrained(run / "unet")  # pyright: ignore
    return small_pipeline(trained_encoder(shop, arm, seed), unet, run / "scheduler", shop.teacher("autoencoder"))
