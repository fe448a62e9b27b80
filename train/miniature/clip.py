"""The miniature's CLIP: the frozen text tower that FaceCLIP starts from and the image teacher it is pulled to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from faceclip import FaceCLIPConfig
from faceclip.checkpoint import write_safetensors

from ..teacher import MINI_VISION, mini_clip
from ..tokens import token_ids
from .fitting import Schedule, fit
from .pictures import Pictures, shuffled


def train_clip(pictures: Pictures, branch: str, schedule: Schedule, out: Path) -> list[float]:
    """Train a CLIP of the mini preset's `branch` on pictures and captions; write it as `--init-clip` reads it.

    Captions say nothing of who is shown, so what the embedding knows of a person is what pictures of one caption differ by.
    """
    text = FaceCLIPConfig.preset("mini").branches[branch].text
    torch.manual_seed(schedule.seed)
    model = mini_clip(text).train()
    ids = token_ids(pictures.captions, [False] * len(pictures))
    groups = _same(pictures.captions)

    def loss_of(rows: Tensor) -> Tensor:
        images = F.normalize(model.encode_image(as_clip_sees(augment(pictures.images[rows]))), dim=-1)
        texts = F.normalize(model.encode_text(ids[rows]), dim=-1)
        logits = model.logit_scale.clamp(max=4.6).exp() * images @ texts.T
        # Rows with one caption are not negatives of each other.
        repeated = groups[rows][:, None] == groups[rows][None]
        logits = logits.masked_fill(repeated & ~torch.eye(len(rows), dtype=torch.bool), -torch.inf)
        target = torch.arange(len(rows))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    rows = _halves(pictures.identity, schedule)
    losses = fit(f"CLIP {branch}", model.parameters(), loss_of, rows, schedule)
    write_safetensors(out, dict(model.state_dict()), {"format": "open_clip", "made_by": "train.miniature.clip"})
    return losses


def _halves(identity: Tensor, schedule: Schedule) -> Iterator[Tensor]:
    """Batches of half people, half objects, however many of each there are: objects are rarer and have 40 classes."""
    people, objects = torch.nonzero(identity >= 0)[:, 0], torch.nonzero(identity < 0)[:, 0]
    half = schedule.batch // 2
    first = shuffled(len(people), schedule.batch - half, schedule.steps, schedule.seed)
    second = shuffled(len(objects), half, schedule.steps, schedule.seed + 1)
    return (torch.cat([people[a], objects[b]]) for a, b in zip(first, second, strict=True))


def as_clip_sees(images: Tensor) -> Tensor:
    """uint8 [B, 3, S, S] -> the vision tower's input, float [B, 3, s, s]: the teacher's resizing and normalisation."""
    import open_clip

    size: Any = MINI_VISION["image_size"]
    x = images.float() / 255
    if images.shape[-1] != size:
        x = F.interpolate(x, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    return (x - mean) / std


def augment(images: Tensor) -> Tensor:
    """Shift by up to two pixels. No flips: captions speak of left and right."""
    size = images.shape[-1]
    padded = F.pad(images.float(), (2, 2, 2, 2), mode="replicate").to(images.dtype)
    top, left = torch.randint(0, 5, (2,)).tolist()
    return padded[..., top : top + size, left : left + size]


def _same(words: list[str]) -> Tensor:
    numbers = {word: i for i, word in enumerate(dict.fromkeys(words))}
    return torch.tensor([numbers[word] for word in words])
