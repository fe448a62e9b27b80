"""Zero-shot classification: pictures of a vision tower against class texts (paper, Table 1).

The class texts go through FaceCLIP with a black face: does the joint
representation still mean what CLIP's text tower means?
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import MetricError, require

_SENTENCES_AT_ONCE = 160


@dataclass(frozen=True)
class ZeroShotScores:
    """Shares in [0, 1].

    Over images, and as the mean over classes, which differ where classes have unlike numbers of images.
    """

    top1: float
    top5: float
    top1_per_class: float
    images: int
    classes: int


def imagenet_templates() -> list[Callable[[str], str]]:
    """The 80 sentences into which CLIP's authors put a class's name, from open_clip."""
    require("open_clip", "open_clip_torch", "Zero-shot classification")
    import open_clip

    return list(open_clip.OPENAI_IMAGENET_TEMPLATES)


def class_embeddings(
    embed: Callable[[list[str]], Tensor], names: Sequence[str], templates: Sequence[Callable[[str], str]] | None = None
) -> Tensor:
    """One unit vector per class, float32 [C, D]: the mean of its normalised sentences, normalised again.

    Args:
        embed: texts -> embeddings [n, D] in the vision tower's space.
        names: the classes, in words.
        templates: sentences around a name; the 80 of ImageNet by default.

    Raises:
        MetricError: no class.
    """
    if not names:
        raise MetricError("There is no class to tell apart.")
    sentences = imagenet_templates() if templates is None else list(templates)
    rows = []
    at_once = max(1, _SENTENCES_AT_ONCE // len(sentences))
    for start in range(0, len(names), at_once):
        part = names[start : start + at_once]
        embedded = embed([sentence(name) for name in part for sentence in sentences]).float()
        rows.append(F.normalize(embedded, dim=-1).unflatten(0, (len(part), len(sentences))).mean(1))
    return F.normalize(torch.cat(rows), dim=-1)


def zero_shot_accuracy(images: Tensor, classes: Tensor, labels: Sequence[int] | Tensor) -> ZeroShotScores:
    """How often the nearest class text, or one of the nearest five, is the picture's.

    Args:
        images: embeddings [N, D] of a vision tower.
        classes: embeddings [C, D] of `class_embeddings`.
        labels: [N], each image's class, 0 to C - 1.

    Raises:
        MetricError: shapes that do not match, no image, or a label of no class.
    """
    truth = torch.as_tensor(labels, dtype=torch.long)
    if images.ndim != 2 or classes.ndim != 2 or images.shape[1] != classes.shape[1] or len(images) != len(truth):
        raise MetricError(
            f"Images [N, D], classes [C, D] and labels [N] are needed; found {list(images.shape)}, {list(classes.shape)} and "
            f"{list(truth.shape)}."
        )
    if len(images) == 0:
        raise MetricError("There is no image to classify.")
    if truth.min() < 0 or truth.max() >= len(classes):
        raise MetricError(
            f"Labels go from 0 to {len(classes) - 1} for {len(classes)} classes; found {truth.min()} to {truth.max()}."
        )
    similarity = F.normalize(images.float(), dim=-1) @ F.normalize(classes.float(), dim=-1).T
    guesses = similarity.topk(min(5, len(classes)), dim=1).indices.cpu()
    right = guesses == truth[:, None]
    first = right[:, 0].double()
    seen = torch.unique(truth)
    return ZeroShotScores(
        top1=first.mean().item(),
        top5=right.any(1).double().mean().item(),
        top1_per_class=torch.stack([first[truth == label].mean() for label in seen]).mean().item(),
        images=len(images),
        classes=len(classes),
    )
