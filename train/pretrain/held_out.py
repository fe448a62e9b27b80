"""Measurements on held-out shards while pretraining runs: retrieval, identity, zero-shot classification."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from faceclip.metrics import class_embeddings, zero_shot_accuracy

from ..data.batches import Transform, collate
from ..data.captions import token_ids
from ..data.shards import ShardSource
from ..run.ranks import Ranks
from .features import Features, FeatureSource
from .model import PretrainModel, black_face_texts

_TEMPLATE = "a photo of a {}"  # CLIP's


class HeldOut:
    """The samples of some shards, measured with dropout off.

    A sample's `meta["class"]`, where it has one, is the word that
    zero-shot classification has to find for its picture.
    """

    def __init__(self, source: ShardSource, transform: Transform, features: FeatureSource, batch_size: int):
        self.source = source
        self.transform = transform
        self.features = features
        self.batch_size = batch_size

    @torch.no_grad()
    def measure(self, model: PretrainModel, ranks: Ranks) -> dict[str, float]:
        """Shares in [0, 1]: `retrieval`: the caption with its face finds its picture.

        `identity`: it finds its face, among the held-out ones; `zero_shot`: the
        class word finds the picture's class, where classes are known.

        Collective: each rank embeds a stretch of the samples, so that none waits
        for another; rank 0 has the result, the others nothing.
        """
        model.eval()
        own = [self._embed(model, batch, words) for batch, words in self._batches(ranks)]
        batches = [batch for part in _all_parts(own, ranks) for batch in part]
        if not ranks.is_main:
            return {}
        to_text, to_face, image, face, has_face = (
            torch.cat(column).to(ranks.device) for column in zip(*[b[:5] for b in batches], strict=True)
        )
        words = [word for batch in batches for word in batch.words]
        measured = {"retrieval": _finds_own(to_text, image), "identity": _finds_own(to_face[has_face], face[has_face])}
        if any(words):
            measured["zero_shot"] = self._zero_shot(model, image, words)
        return measured

    def _embed(self, model: PretrainModel, batch: dict[str, Any], words: list[str]) -> _Embedded:
        features = self.features(batch)
        to_text, to_face = _project(model, batch["caption"], features, batch["has_face"])
        face, has_face = features.class_token[:, 0].cpu(), batch["has_face"].cpu()
        return _Embedded(to_text.cpu(), to_face.cpu(), features.image.cpu(), face, has_face, words)

    def _batches(self, ranks: Ranks) -> Iterator[tuple[dict[str, Any], list[str]]]:
        """This rank's stretch of the samples."""
        random = np.random.default_rng(0)
        first, after = (len(self.source) * place // ranks.world_size for place in (ranks.rank, ranks.rank + 1))
        for start in range(first, after, self.batch_size):
            samples = [self.source[i] for i in range(start, min(start + self.batch_size, after))]
            rows = [{"has_face": s.face is not None, "key": s.key, **self.transform(s, random)} for s in samples]
            yield collate(rows), [str(sample.meta.get("class", "")) for sample in samples]

    def _zero_shot(self, model: PretrainModel, image: Tensor, words: Sequence[str]) -> float:
        names = sorted(set(filter(None, words)))
        classes = class_embeddings(lambda texts: black_face_texts(model, texts, self.batch_size), names, [_TEMPLATE.format])
        known = [i for i, word in enumerate(words) if word]
        return zero_shot_accuracy(image[known], classes, [names.index(words[i]) for i in known]).top1


class _Embedded(NamedTuple):
    """Some held-out rows in CPU memory: e->t, e->r, CLIP image, ArcFace class token, and whether there is a face."""

    to_text: Tensor
    to_face: Tensor
    image: Tensor
    face: Tensor
    has_face: Tensor
    words: list[str]


def _all_parts(own: list[_Embedded], ranks: Ranks) -> list[list[_Embedded]]:
    """What every rank has, in their order."""
    if ranks.world_size == 1:
        return [own]
    parts: list[Any] = [None] * ranks.world_size
    dist.all_gather_object(parts, own)
    return parts


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
