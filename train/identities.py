"""Whose face conditions a row of finetuning: the frozen face tower's features, computed at every step or read from a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from faceclip import FaceCLIPEncoder, Identity

from .pretrain_data import identity_of_faces

if TYPE_CHECKING:
    from .finetune_data import Rows


class IdentitySource(Protocol):
    """Identities of a batch, on the encoder's device."""

    def __call__(self, rows: Rows) -> Identity: ...


class LiveIdentities:
    """Run the face tower on every batch."""

    def __init__(self, encoder: FaceCLIPEncoder):
        self._encoder = encoder

    def __call__(self, rows: Rows) -> Identity:
        assert rows.faces is not None
        return identity_of_faces(self._encoder, rows.faces, rows.has_face)
