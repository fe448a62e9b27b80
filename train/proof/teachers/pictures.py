"""The synthetic world in memory: what teachers and judges are trained and judged on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ...data.decode import decode, decode_face
from ...data.shards import MEMBERS, Sample, ShardSource
from ...synthetic.people import LATENTS, TRAITS, Person, traits

CROP = 112  # what the face tower sees of an aligned face


@dataclass(frozen=True, eq=False)
class Pictures:
    """N samples, in the order of their shards.

    images: uint8 [N, 3, S, S]. crops: uint8 [N, 3, 112, 112], the face
        tower's view, black without a face; [N, 0] if not read.
    landmarks: float32 [N, 5, 2] in sides of the picture, 0 without a
        face. identity: int64 [N], -1 without a person.
    captions, classes: the words; a class is "" where there is none.
    """

    images: Tensor
    crops: Tensor
    landmarks: Tensor
    identity: Tensor
    captions: list[str]
    classes: list[str]
    traits: Tensor
    """float32 [N, 29] in [-1, 1]: who is drawn, in the world's own numbers; 0 without a person."""

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, rows: Tensor) -> Pictures:
        chosen = rows.tolist()
        return Pictures(
            self.images[rows],
            self.crops[rows],
            self.landmarks[rows],
            self.identity[rows],
            [self.captions[i] for i in chosen],
            [self.classes[i] for i in chosen],
            self.traits[rows],
        )

    @property
    def device(self) -> torch.device:
        """Where who learns from them computes."""
        return self.images.device

    def to(self, device: torch.device) -> Pictures:
        """These on another device."""
        moved = {name: part.to(device) for name, part in vars(self).items() if isinstance(part, Tensor)}
        return replace(self, **moved)

    def people(self) -> Pictures:
        """Those with a person, their labels counted from 0 without gaps."""
        found = self[torch.nonzero(self.identity >= 0)[:, 0]]
        _, dense = found.identity.unique(return_inverse=True)
        return replace(found, identity=dense)

    @staticmethod
    def cat(parts: list[Pictures]) -> Pictures:
        return Pictures(
            torch.cat([part.images for part in parts]),
            torch.cat([part.crops for part in parts]),
            torch.cat([part.landmarks for part in parts]),
            torch.cat([part.identity for part in parts]),
            [caption for part in parts for caption in part.captions],
            [name for part in parts for name in part.classes],
            torch.cat([part.traits for part in parts]),
        )


def load_pictures(shards: str | Path, size: int, crops: bool = False, threads: int = 1) -> Pictures:
    """Every sample of some shards.

    `size` is the side of `images` in pixels; `crops` are read on demand: they take the time.
    """
    members = MEMBERS if crops else ("image", "caption", "meta")
    source = ShardSource(shards, read=members)
    count = len(source)
    images = torch.empty(count, 3, size, size, dtype=torch.uint8)
    faces = torch.empty(count, *((3, CROP, CROP) if crops else (0,)), dtype=torch.uint8)

    def read(row: int) -> tuple[Tensor, Sample]:
        # Into place at once: thousands of small tensors, kept between large ones, leave holes of several times their size.
        return _read(source[row], images[row], faces[row])

    with ThreadPoolExecutor(threads) as pool:
        landmarks, samples = zip(*pool.map(read, range(count)), strict=True)
    return Pictures(
        images,
        faces,
        torch.stack(landmarks),
        torch.tensor([sample.identity for sample in samples]),
        [sample.caption for sample in samples],
        [str(sample.meta.get("class", "")) for sample in samples],
        torch.stack([traits_of(sample) for sample in samples]),
    )


def shuffled(count: int, batch: int, steps: int, seed: int) -> Iterator[Tensor]:
    """`steps` batches of row numbers, each row once an epoch, whole batches only."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        while len(order) < batch:
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        yield order[:batch]
        order = order[batch:]


def face_crop(face: bytes | None) -> Tensor:
    """A stored crop as the face tower sees it, uint8 [3, 112, 112]; black for None."""
    decoded = torch.from_numpy(decode_face(face))
    return (F.interpolate(decoded[None], CROP, mode="bilinear", align_corners=False)[0] * 255).round().byte()


def traits_of(sample: Sample) -> Tensor:
    """float32 [29]: the traits of the person that a sample shows; 0 without one."""
    if "latents" not in sample.meta:
        return torch.zeros(len(TRAITS))
    latents = np.array([sample.meta["latents"][name] for name in LATENTS])
    return torch.from_numpy(traits(Person(sample.identity, latents))).float()


def _read(sample: Sample, image: Tensor, face: Tensor) -> tuple[Tensor, Sample]:
    """Fill in the picture [3, S, S] and, unless it is empty, the crop.

    Return landmarks and what is left of the sample.
    """
    whole = decode(sample.image, "picture")
    picture = whole.resize((image.shape[-1], image.shape[-2]), Image.Resampling.BICUBIC)
    image.copy_(torch.from_numpy(np.array(picture)).permute(2, 0, 1))
    if face.numel():
        face.copy_(face_crop(sample.face))
    landmarks = torch.tensor(sample.meta.get("landmarks", [[0.0, 0.0]] * 5), dtype=torch.float32) / whole.width
    return landmarks, replace(sample, image=b"", face=None)
