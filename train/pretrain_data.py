"""What a pretraining step is given: rows from shards, and the features of the frozen towers, live or from a cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from faceclip import FaceCLIPEncoder, Identity
from faceclip.model.branch import FaceCLIPBranch
from faceclip.prompt import tokenize

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


def token_ids(captions: Sequence[str], has_face: Sequence[bool]) -> Tensor:
    """[b, 77] int64: captions as FaceCLIP reads them, with the identity prefix where there is a face.

    A caption is plain text: its brackets are no weights.
    """
    plain = [caption.replace("(", r"\(").replace(")", r"\)") for caption in captions]
    return torch.cat([tokenize(text, face).input_ids for text, face in zip(plain, has_face, strict=True)])


@torch.no_grad()
def text_embedding(branch: FaceCLIPBranch, captions: Sequence[str]) -> Tensor:
    """[b, d]: the frozen CLIP text encoder's embedding of the captions alone, the text target (paper, eq. 3)."""
    ids = token_ids(captions, [False] * len(captions)).to(branch.text_projection.device)
    hidden = branch.encode_tokens(branch.token_embedding(ids))
    return branch.pool(hidden, ids) @ branch.text_projection
