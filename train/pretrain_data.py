"""What a pretraining step is given: rows from shards, and the features of the frozen towers, live or from a cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol

import torch
from torch import Tensor

from faceclip import FaceCLIPEncoder, Identity
from faceclip.model.branch import FaceCLIPBranch

from .teacher import ImageTeacher


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
    """[b] int64: `identity` where it is known, else a label of the row's own, so that a sample that a batch holds twice is no
    negative of itself; -1 without a face.

    A hash of the row number `index` in [2^62, 2^63), far above numbered people and lost among hashed ones.
    """
    own = [int.from_bytes(blake2b(b"row %d" % row, digest_size=8).digest(), "big") >> 2 | 1 << 62 for row in index.tolist()]
    labels = torch.where(identity < 0, torch.tensor(own, dtype=torch.int64), identity.cpu())
    return torch.where(has_face.cpu(), labels, -1)


def identity_of_faces(encoder: FaceCLIPEncoder, faces: Tensor, has_face: Tensor) -> Identity:
    """`faces` [b, 3, 448, 448] in [0, 1] -> identities; the tower sees only rows with a face, the others are the blank face's."""
    blank = encoder.blank_face().to(encoder.device)
    rows = has_face.to(encoder.device)
    class_token = blank.class_token.repeat(len(rows), 1, 1)
    patch_tokens = blank.patch_tokens.repeat(len(rows), 1, 1, 1)
    if has_face.any():
        found = encoder.encode_faces(faces[has_face])
        class_token[rows], patch_tokens[rows] = found.class_token, found.patch_tokens
    return Identity(class_token, patch_tokens, rows, blank.signature)


def with_blank(class_token: Tensor, patch_tokens: Tensor, present: Tensor, encoder: FaceCLIPEncoder) -> Identity:
    """Identities [b] with the blank face's features in the rows where `present` is false."""
    blank = encoder.blank_face().to(class_token.device, class_token.dtype)
    rows = present.to(class_token.device)
    return Identity(
        torch.where(rows[:, None, None], class_token, blank.class_token),
        torch.where(rows[:, None, None, None], patch_tokens, blank.patch_tokens),
        rows,
        blank.signature,
    )


def in_slices(batch: Mapping[str, Any], rows: int) -> Iterator[dict[str, Any]]:
    """A batch of `TrainingData`'s form, some rows at a time."""
    for start in range(0, len(batch["key"]), rows):
        yield {name: values[start : start + rows] for name, values in batch.items()}


@torch.no_grad()
def text_embedding(branch: FaceCLIPBranch, ids: Tensor) -> Tensor:
    """[b, d]: the frozen CLIP text encoder's embedding of captions alone, ids [b, 77]: the text target (paper, eq. 3)."""
    ids = ids.to(branch.text_projection.device)
    hidden = branch.encode_tokens(branch.token_embedding(ids))
    return branch.pool(hidden, ids) @ branch.text_projection
