"""What the frozen face and text towers say of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from faceclip import FaceCLIPEncoder, Identity
from faceclip.model.branch import FaceCLIPBranch


def identity_of_faces(encoder: FaceCLIPEncoder, faces: Tensor, has_face: Tensor) -> Identity:
    """`faces` [b, 3, 448, 448] -> identities; the tower sees only rows with a face, the others are the blank face's.

    uint8, as batches hold them, or float in [0, 1]. They travel as they are and are normalised on the device: a
    quarter of the bytes.
    """
    blank = encoder.blank_face().to(encoder.device)
    rows = has_face.to(encoder.device)
    class_token = blank.class_token.repeat(len(rows), 1, 1)
    patch_tokens = blank.patch_tokens.repeat(len(rows), 1, 1, 1)
    if has_face.any():
        sent = faces.to(encoder.device, non_blocking=True)
        shown = sent if bool(has_face.all()) else sent[rows]
        found = encoder.encode_faces(shown.float() / 255 if shown.dtype == torch.uint8 else shown)
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


@torch.no_grad()
def text_embedding(branch: FaceCLIPBranch, ids: Tensor) -> Tensor:
    """[b, d]: the frozen CLIP text encoder's embedding of captions alone, ids [b, 77]: the text target (paper,
    eq. 3)."""
    ids = ids.to(branch.text_projection.device)
    hidden = branch.encode_tokens(branch.token_embedding(ids))
    return branch.pool(hidden, ids) @ branch.text_projection
