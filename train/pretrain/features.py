"""What a pretraining step is given: rows from shards, and the features
of the frozen towers, live or from a cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from faceclip import FaceCLIPEncoder

from ..cache.features import FeatureCache, JoinedFeatures, require_face_tower
from ..cache.row_store import CacheError
from ..frozen.faces import identity_of_faces, with_blank
from ..frozen.teacher import ImageTeacher
from ..frozen.towers import read_clip, weights_digest


class CachedFeatures:
    """Features for pretraining from a cache: image embeddings always.

    Face features and text embeddings where it has them.
    """

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
        self._names = tuple(main.shapes)
        self._joined = JoinedFeatures(main, guided)
        self._has_text = all("clip_text" in cache.shapes for cache in filter(None, (main, guided)))

    def read(self, index: Tensor) -> dict[str, Tensor]:
        """What the cache holds of rows `index` int64 [b], as entries of their batch: read ahead, by another thread."""
        return self._joined.read(index)

    def __call__(self, batch: Mapping[str, Any]) -> Features:
        device, dtype = self._encoder.device, self._encoder.compute_dtype
        cached = batch if all(name in batch for name in self._names) else self.read(batch["index"])
        found = {name: cached[name].to(device, non_blocking=True).to(dtype) for name in self._names}
        if self.has_faces:
            identity = with_blank(found["class_token"], found["patch_tokens"], batch["has_face"], self._encoder)
        else:
            identity = identity_of_faces(self._encoder, batch["face"], batch["has_face"])
        text = found["clip_text"] if self._has_text else None
        return Features(found["clip_image"], identity.class_token, identity.patch_tokens, text)


def _vision_digest(init_clip: str) -> str:
    """The digest of the vision tower in a CLIP checkpoint, under `ImageTeacher`'s names.

    "" if it has a text tower alone.
    """
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


@dataclass(frozen=True, eq=False)
class Features:
    """Outputs of the frozen towers for b rows, on the training device.

    image: CLIP image embeddings [b, dt]; text: those of the captions, None where they are to be computed.
    class_token [b, 1, 512], patch_tokens [b, 1, 144, w]: the face tower's, of a black crop in guided rows.
    """

    image: Tensor
    class_token: Tensor
    patch_tokens: Tensor
    text: Tensor | None = None

    @staticmethod
    def cat(parts: Sequence[Features]) -> Features:
        """The rows of all parts, in order."""
        columns = [(f.image, f.class_token, f.patch_tokens) for f in parts]
        image, class_token, patch_tokens = (torch.cat(column) for column in zip(*columns, strict=True))
        texts = [f.text for f in parts if f.text is not None]
        return Features(image, class_token, patch_tokens, torch.cat(texts) if texts else None)


class FeatureSource(Protocol):
    """Where the features of a batch come from."""

    def __call__(self, batch: Mapping[str, Any]) -> Features: ...


class LiveFeatures:
    """Run the frozen towers on every batch."""

    def __init__(self, encoder: FaceCLIPEncoder, teacher: ImageTeacher):
        self.encoder = encoder
        self.teacher = teacher

    def __call__(self, batch: Mapping[str, Any]) -> Features:
        identity = identity_of_faces(self.encoder, batch["face"], batch["has_face"])
        image = self.teacher(batch["image"]).to(identity.class_token.dtype)
        return Features(image, identity.class_token, identity.patch_tokens)


def person_labels(identity: Tensor, has_face: Tensor, index: Tensor) -> Tensor:
    """[b] int64: `identity` where it is known, else a label of the row's own, so that a sample that a batch holds
    twice is no negative of itself; -1 without a face.

    A hash of the row number `index` in [2^62, 2^63), far above numbered people and lost among hashed ones.
    """
    own = [int.from_bytes(blake2b(b"row %d" % row, digest_size=8).digest(), "big") >> 2 | 1 << 62 for row in index.tolist()]
    labels = torch.where(identity < 0, torch.tensor(own, dtype=torch.int64), identity.cpu())
    return torch.where(has_face.cpu(), labels, -1)


def in_slices(batch: Mapping[str, Any], rows: int) -> Iterator[dict[str, Any]]:
    """A batch of `TrainingData`'s form, some rows at a time."""
    for start in range(0, len(batch["key"]), rows):
        yield {name: values[start : start + rows] for name, values in batch.items()}
