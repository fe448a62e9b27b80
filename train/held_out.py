"""Measurements on held-out shards while pretraining runs: retrieval, identity, zero-shot classification."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .data import Transform, collate
from .pretrain_data import Features, FeatureSource, token_ids
from .shards import ShardSource

if TYPE_CHECKING:
    from .pretrain_step import PretrainModel

_TEMPLATE = "a photo of a {}"  # CLIP's


class HeldOut:
    """The samples of some shards, measured with dropout off.

    A sample's `meta["class"]`, where it has one, is the word that zero-shot classification has to find for its picture.
    """

    def __init__(self, source: ShardSource, transform: Transform, features: FeatureSource, batch_size: int):
        self.source = source
        self.transform = transform
        self.features = features
        self.batch_size = batch_size

    @torch.no_grad()
    def measure(self, model: PretrainModel) -> dict[str, float]:
        """Shares in [0, 1]: `retrieval`: the caption with its face finds its picture; `identity`: it finds its face, among the
        held-out ones; `zero_shot`: the class word finds the picture's class, where classes are known."""
        model.eval()
        text_like, identity_like, image, face, has_face, words = [], [], [], [], [], []
        for batch, batch_words in self._batches():
            features = self.features(batch)
            to_text, to_face = _project(model, batch["caption"], features, batch["has_face"])
            text_like.append(to_text)
            identity_like.append(to_face)
            image.append(features.image)
            face.append(features.class_token[:, 0])
            has_face.append(batch["has_face"])
            words += batch_words
        faces = torch.cat(has_face).to(torch.cat(face).device)
        measured = {
            "retrieval": _finds_own(torch.cat(text_like), torch.cat(image)),
            "identity": _finds_own(torch.cat(identity_like)[faces], torch.cat(face)[faces]),
        }
        if any(words):
            measured["zero_shot"] = self._zero_shot(model, torch.cat(image), words)
        return measured

    def _batches(self) -> Iterator[tuple[dict[str, Any], list[str]]]:
        random = np.random.default_rng(0)
        for start in range(0, len(self.source), self.batch_size):
            samples = [self.source[i] for i in range(start, min(start + self.batch_size, len(self.source)))]
            rows = [{"has_face": s.face is not None, "key": s.key, **self.transform(s, random)} for s in samples]
            yield collate(rows), [str(sample.meta.get("class", "")) for sample in samples]

    def _zero_shot(self, model: PretrainModel, image: Tensor, words: Sequence[str]) -> float:
        classes = sorted(set(filter(None, words)))
        blank = model.encoder.blank_face().to(image.device, image.dtype)
        rows = [0] * len(classes)
        features = Features(image[:0], blank.class_token[rows], blank.patch_tokens[rows])
        none = torch.zeros(len(classes), dtype=torch.bool)
        prompts, _ = _project(model, [_TEMPLATE.format(word) for word in classes], features, none)
        known = [i for i, word in enumerate(words) if word]
        guesses = (F.normalize(image[known].float(), dim=-1) @ F.normalize(prompts.float(), dim=-1).T).argmax(1).tolist()
        return sum(classes[guess] == words[i] for guess, i in zip(guesses, known, strict=True)) / len(known)


def _project(model: PretrainModel, captions: Sequence[str], features: Features, has_face: Tensor) -> tuple[Tensor, Tensor]:
    device = features.class_token.device
    ids = token_ids(captions, has_face.tolist()).to(device)
    return model(ids, features.class_token, features.patch_tokens, has_face.to(device))


def _finds_own(queries: Tensor, keys: Tensor) -> float:
    """Share of rows whose nearest key is their own; 0 for no rows."""
    if not len(queries):
        return 0.0
    similarity = F.normalize(queries.float(), dim=-1) @ F.normalize(keys.float(), dim=-1).T
    return (similarity.argmax(1) == torch.arange(len(queries), device=queries.device)).float().mean().item()
