"""The miniature's CLIP: the frozen text tower that FaceCLIP starts from and the image teacher it is pulled to."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Linear

from faceclip import FaceCLIPConfig
from faceclip.checkpoint import write_safetensors
from faceclip.metrics import imagenet_templates

from ...data.captions import caption_ids
from ...frozen.teacher import MINI_VISION, mini_clip
from ..fitting import Schedule, fit, forget, state_of
from .pictures import Pictures, shuffled


def train_clip(pictures: Pictures, branch: str, schedule: Schedule, out: Path) -> list[float]:
    """Train a CLIP of the mini preset's `branch` on pictures and captions; write it as `--init-clip` reads it.

    Captions say nothing of who is shown, so what the embedding knows of a person is what pictures of one caption
    differ by. Some captions are cut to a few words, and objects are also named alone and in ImageNet's sentences,
    so that short prompts and those sentences mean something to the text tower. A linear classifier of the objects
    learns with the vision tower: contrast alone takes its first thousands of pictures to look past backgrounds.
    """
    text = FaceCLIPConfig.preset("mini").branches[branch].text
    torch.manual_seed(schedule.seed)
    model = mini_clip(text).train()
    _start_with_attention(model)
    device = pictures.device
    names = sorted(set(pictures.classes) - {""})
    labels = torch.tensor([names.index(name) if name else -1 for name in pictures.classes], device=device)
    classifier = Linear(text.width, len(names))
    learner = nn.ModuleList([model, classifier]).to(device)
    sentences = Sentences(pictures, schedule.seed)

    def loss_of(rows: Tensor) -> Tensor:
        images = F.normalize(model.encode_image(as_clip_sees(augment(pictures.images[rows]))), dim=-1)
        ids, groups = (part.to(device) for part in sentences(rows))
        texts = F.normalize(model.encode_text(ids), dim=-1)
        logits = model.logit_scale.clamp(max=4.6).exp() * images @ texts.T
        # Rows with one sentence are not negatives of each other.
        repeated = groups[:, None] == groups[None]
        logits = logits.masked_fill(repeated & ~torch.eye(len(rows), dtype=torch.bool, device=device), -torch.inf)
        target = torch.arange(len(rows), device=device)
        contrast = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        return contrast + F.cross_entropy(classifier(8 * images), labels[rows], ignore_index=-1)

    rows = _halves(pictures.identity.cpu(), schedule)
    losses = fit(f"CLIP {branch}", learner, loss_of, rows, schedule, state_of(out, branch), [sentences.random])
    write_safetensors(out, dict(model.state_dict()), {"format": "open_clip", "made_by": "train.proof.teachers.clip"})
    forget(out)
    return losses


class Sentences:
    """Row numbers -> token ids [B, 77], and a number for each sentence that is the same for the same words.

    A quarter of the objects' rows keep their caption, a quarter are named in one of ImageNet's sentences, the
    rest alone; half of the people's rows keep their caption, the others two to six words of it.
    """

    def __init__(self, pictures: Pictures, seed: int):
        self.captions, self.classes = pictures.captions, pictures.classes
        self.templates = imagenet_templates()
        self.random = random.Random(seed)
        self._ids: dict[str, Tensor] = {}

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        words = [self.of(row) for row in rows.tolist()]
        for text in words:
            if text not in self._ids:
                self._ids[text] = caption_ids(text)
        numbers = {text: i for i, text in enumerate(dict.fromkeys(words))}
        return torch.stack([self._ids[text] for text in words]), torch.tensor([numbers[text] for text in words])

    def of(self, row: int) -> str:
        """Words for one row, drawn anew at each call."""
        caption, name, draw = self.captions[row], self.classes[row], self.random.random()
        if draw < (0.25 if name else 0.5):
            return caption
        if name:
            return self.random.choice(self.templates)(name) if draw < 0.5 else name
        words = caption.split()
        count = self.random.randint(2, 6)
        start = self.random.randrange(max(1, len(words) - count))
        return " ".join(words[start : start + count])


@torch.no_grad()
def _start_with_attention(model: Any) -> None:
    """A text's words reach its end token through attention alone: let that
    say more, and the token itself nothing, at first.

    In a trial on object names alone, 0.23 of the objects were recognised after 200 steps, and 0.18 without this.
    """
    model.token_embedding.weight[-2:] = 0  # start and end of text
    for block in model.transformer.resblocks:
        block.attn.out_proj.weight.mul_(4)


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
    mean, std = (
        torch.tensor(v, device=x.device).view(1, 3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    return (x - mean) / std


def augment(images: Tensor) -> Tensor:
    """Shift by up to two pixels. No flips: captions speak of left and right."""
    size = images.shape[-1]
    padded = F.pad(images.float(), (2, 2, 2, 2), mode="replicate").to(images.dtype)
    top, left = torch.randint(0, 5, (2,)).tolist()
    return padded[..., top : top + size, left : left + size]
