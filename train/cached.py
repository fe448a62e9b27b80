"""Frozen features and latents read from what `python -m train.cache` wrote, checked against what the run trains with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from faceclip import FaceCLIPEncoder, Identity

from .cache import CacheError, FeatureCache, JoinedFeatures, LatentCache, weights_digest
from .finetune_data import Draws, Rows
from .initialise import read_clip
from .pretrain_data import Features, identity_of_faces, with_blank
from .shards import Sample


class CachedFeatures:
    """Features for pretraining from a cache: image embeddings always; face features and text embeddings where it has them."""

    def __init__(
        self,
        encoder: FaceCLIPEncoder,
        main: FeatureCache,
        guided: FeatureCache | None,
        teacher: str = "",
        init_clip: str = "",
    ):
        """
        Args:
            teacher, init_clip: name and checkpoint of the run's image teacher, as far as it names them.

        Raises:
            CacheError: the cache lacks image embeddings of the encoder's width, or was made by other towers.
        """
        digest = _vision_digest(init_clip) if init_clip else ""
        for cache in filter(None, (main, guided)):
            cache.require("clip_image", (encoder.config.width,))
            _require_teacher(cache, teacher, digest)
            _require_text_tower(cache, encoder)
        self.has_faces = "patch_tokens" in main.shapes
        if self.has_faces:
            require_face_tower(main, encoder)
        self._encoder = encoder
        self._joined = JoinedFeatures(main, guided)
        self._has_text = all("clip_text" in cache.shapes for cache in filter(None, (main, guided)))

    def __call__(self, batch: Mapping[str, Any]) -> Features:
        device, dtype = self._encoder.device, self._encoder.compute_dtype
        found = {name: tensor.to(device, dtype) for name, tensor in self._joined.read(batch["index"]).items()}
        if self.has_faces:
            identity = with_blank(found["class_token"], found["patch_tokens"], batch["has_face"], self._encoder)
        else:
            identity = identity_of_faces(self._encoder, batch["face"], batch["has_face"])
        text = found["clip_text"] if self._has_text else None
        return Features(found["clip_image"], identity.class_token, identity.patch_tokens, text)


class CachedIdentities:
    """Identities for finetuning from a cache of face features."""

    def __init__(self, encoder: FaceCLIPEncoder, cache: FeatureCache):
        """Raises CacheError if the cache has no face features or another face tower made them."""
        require_face_tower(cache, encoder)
        self._encoder = encoder
        self._cache = cache

    def __call__(self, rows: Rows) -> Identity:
        found = self._cache.read(torch.tensor(rows.index))
        device, dtype = self._encoder.device, self._encoder.compute_dtype
        class_token, patch_tokens = (found[name].to(device, dtype) for name in ("class_token", "patch_tokens"))
        return with_blank(class_token, patch_tokens, rows.has_face, self._encoder)


class CachedLatents:
    """Latents for finetuning from a cache; each row of each step draws from the VAE's posterior anew."""

    def __init__(self, cache: LatentCache):
        self._cache = cache

    def buckets(self) -> np.ndarray:
        return self._cache.bucket_of

    def read(self, row: int, sample: Sample) -> tuple[Tensor, tuple[int, ...]]:
        latents = self._cache.read(torch.tensor([row]))
        return torch.cat([latents.mean, latents.std]), tuple(latents.condition[0].tolist())

    def encode(self, pictures: Tensor, draws: Sequence[Draws]) -> Tensor:
        mean, std = pictures.float().unbind(1)
        noise = torch.cat([torch.randn(1, *mean.shape[1:], generator=draw.generator()) for draw in draws])
        return (mean + std * noise) * self._cache.scaling_factor


def require_face_tower(cache: FeatureCache, encoder: FaceCLIPEncoder) -> None:
    """Raise CacheError unless the cache's face features are those of the encoder's face tower."""
    branch = next(iter(encoder.config.branches.values()))
    towers = len(encoder.face_towers)
    cache.require("class_token", (towers, branch.face.classes))
    cache.require("patch_tokens", (towers, branch.face.grid**2, branch.face.width))
    signature = encoder.signature()
    if cache.signature.shape != signature.shape or not torch.allclose(cache.signature, signature, rtol=2e-2, atol=1e-5):
        raise CacheError(
            "The cached face features were made by another face tower than this run's. "
            "Cache them again with the files that the run starts from."
        )


def _vision_digest(init_clip: str) -> str:
    """The digest of the vision tower in a CLIP checkpoint, under `ImageTeacher`'s names; "" if it has a text tower alone."""
    vision = {name: tensor for name, tensor in read_clip(Path(init_clip)).items() if name.startswith("visual.")}
    return weights_digest(vision) if vision else ""


def _require_teacher(cache: FeatureCache, teacher: str, digest: str) -> None:
    name, _, made_by = str(cache.made_by.get("teacher", "")).partition(" ")
    if teacher and name != teacher:
        raise CacheError(
            f"The cached image embeddings are those of {name or 'no teacher'}, but the run's teacher is {teacher}. "
            "Cache them again with that teacher, or name the teacher that made them."
        )
    if digest and made_by != digest:
        raise CacheError(
            f"The cached image embeddings were made by a {name} with other weights than those of the run's --init-clip. "
            "Cache them again with that file, or give the file that they were made with."
        )


def _require_text_tower(cache: FeatureCache, encoder: FaceCLIPEncoder) -> None:
    made_by = cache.made_by.get("text")
    branch = next(iter(encoder.branches.values()))
    if made_by and made_by != weights_digest(branch.transformer):
        raise CacheError(
            "The cached caption embeddings were made by another text tower than this run's. "
            "Cache them again with the files that the run starts from, or without --captions."
        )
