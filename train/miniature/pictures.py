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

from ..shards import Sample, ShardSource
from ..transforms import decode, decode_face

CROP = 112  # what the face tower sees of an aligned face


@dataclass(frozen=True, eq=False)
class Pictures:
    """N samples, in the order of their shards.

    images: uint8 [N, 3, S, S]. crops: uint8 [N, 3, 112, 112], the face tower's view; black without a face.
    identity: int64 [N], -1 without a person. captions, classes: the words; a class is "" where there is none.
    """

    images: Tensor
    crops: Tensor
    identity: Tensor
    captions: list[str]
    classes: list[str]

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, rows: Tensor) -> Pictures:
        chosen = rows.tolist()
        return Pictures(
            self.images[rows],
            self.crops[rows],
            self.identity[rows],
            [self.captions[i] for i in chosen],
            [self.classes[i] for i in chosen],
        )

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
            torch.cat([part.identity for part in parts]),
            [caption for part in parts for caption in part.captions],
            [name for part in parts for name in part.classes],
        )


def load_pictures(shards: str | Path, size: int, threads: int = 2) -> Pictures:
    """Every sample of some shards. `size` is the side of `images` in pixels."""
    source = ShardSource(shards)
    with ThreadPoolExecutor(threads) as pool:
        rows = list(pool.map(lambda i: _read(source[i], size), range(len(source))))
    images, crops, samples = zip(*rows, strict=True)
    return Pictures(
        torch.stack(images),
        torch.stack(crops),
        torch.tensor([sample.identity for sample in samples]),
        [sample.caption for sample in samples],
        [str(sample.meta.get("class", "")) for sample in samples],
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


def _read(sample: Sample, size: int) -> tuple[Tensor, Tensor, Sample]:
    picture = decode(sample.image, "picture").resize((size, size), Image.Resampling.BICUBIC)
    face = torch.from_numpy(decode_face(sample.face))
    crop = F.interpolate(face[None], CROP, mode="bilinear", align_corners=False)[0]  # as the face tower resizes
    return (
        torch.from_numpy(np.array(picture)).permute(2, 0, 1),
        (crop * 255).round().byte(),
        replace(sample, image=b"", face=None),
    )
