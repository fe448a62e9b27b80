"""What conditions a row of finetuning: caption and face by the frozen
encoder, computed at every step or read from memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from faceclip import FaceCLIPEncoder, Identity

from ..cache.features import FeatureCache, require_face_tower
from ..data.captions import token_ids
from ..frozen.faces import identity_of_faces, with_blank
from .reader import RowReader
from .rows import Draws, Rows


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


class CachedIdentities:
    """Identities for finetuning from a cache of face features."""

    def __init__(self, encoder: FaceCLIPEncoder, cache: FeatureCache):
        """Raises CacheError if the cache has no face features or another face tower made them."""
        require_face_tower(cache, encoder)
        self._encoder = encoder
        self._cache = cache

    def __call__(self, rows: Rows) -> Identity:
        found = rows.features or self._cache.read(torch.tensor(rows.index))
        device, dtype = self._encoder.device, self._encoder.compute_dtype
        names = ("class_token", "patch_tokens")
        class_token, patch_tokens = (found[name].to(device, non_blocking=True).to(dtype) for name in names)
        return with_blank(class_token, patch_tokens, rows.has_face, self._encoder)


Condition = tuple[Tensor, Tensor]
"""What a step's rows are conditioned on: embeddings [b, 77, d] and pooled [b, p]."""


class Conditions(ABC):
    """What the UNet is told of a step's rows, after what is dropped of each. As it stands, nothing of it learns."""

    @property
    def learns(self) -> dict[str, nn.Parameter]:
        """The parameters that learn with the UNet, by names of their own."""
        return {}

    @abstractmethod
    def __call__(self, rows: Rows) -> Condition:
        """Embeddings [b, 77, d] and pooled [b, p], on any device."""

    def save(self, weights: Mapping[str, Tensor]) -> None:
        """Write what has learnt, given its final weights by name."""
        assert not weights, "nothing of these conditions learns"


class JointConditions(Conditions):
    """The frozen encoder's joint representation of caption and face (paper, section 3.4)."""

    def __init__(self, encoder: FaceCLIPEncoder, identities: IdentitySource):
        self.encoder = encoder
        self.identities = identities

    @torch.no_grad()
    def __call__(self, rows: Rows) -> Condition:
        identity = kept_identity(self.encoder, self.identities, rows)
        return self.encoder.joint(token_ids(kept_captions(rows), identity.present.tolist()), identity)


def kept_identity(encoder: FaceCLIPEncoder, identities: IdentitySource, rows: Rows) -> Identity:
    """The rows' identities, the blank face's where the face is dropped."""
    identity = identities(rows)
    kept = ~torch.tensor([draw.drop_face for draw in rows.draws], device=identity.present.device)
    return with_blank(identity.class_token, identity.patch_tokens, identity.present & kept, encoder)


def kept_captions(rows: Rows) -> list[str]:
    """The rows' captions, empty where the text is dropped."""
    return ["" if draw.drop_text else caption for draw, caption in zip(rows.draws, rows.caption, strict=True)]


BLOCK = 64
"""Neighbouring rows whose conditions are computed together."""


class RememberedConditions(Conditions):
    """`remembered(rows)` is `compute(rows)`, on the CPU, and from its memory where it was computed before.

    What is missing is computed with its neighbours, always the same rows in the same places: the last bits of a
    row's condition depend on the rows beside it, and a resumed run, whose memory is empty, must find the same.
    """

    def __init__(self, compute: Conditions, reader: RowReader):
        self._compute = compute
        self._reader = reader
        self._blocks: dict[tuple[int, bool, bool], Condition] = {}
        self._neighbours: dict[int, Rows] = {}

    def __call__(self, rows: Rows) -> Condition:
        found = [self._row(row, draw) for row, draw in zip(rows.index, rows.draws, strict=True)]
        embeddings, pooled = (torch.stack(parts) for parts in zip(*found, strict=True))
        return embeddings, pooled

    def _row(self, row: int, draw: Draws) -> Condition:
        if draw.drop_text and draw.drop_face:
            row = 0  # nothing is left of it: all rows have the first one's condition
        key = (row // BLOCK, draw.drop_text, draw.drop_face)
        block = self._blocks.get(key)
        if block is None:
            neighbours = self._rows(key[0])
            dropped = Draws(0, draw.drop_text, draw.drop_face, 0)
            embeddings, pooled = self._compute(replace(neighbours, draws=[dropped] * len(neighbours.index)))
            block = self._blocks[key] = (embeddings.cpu(), pooled.cpu())
        return block[0][row % BLOCK], block[1][row % BLOCK]

    def _rows(self, block: int) -> Rows:
        """A block's rows without pictures; kept unless they hold pixels of faces."""
        if found := self._neighbours.get(block):
            return found
        rows = self._reader.without_pictures(list(range(block * BLOCK, min((block + 1) * BLOCK, self._reader.count))))
        if rows.faces is None:
            self._neighbours[block] = rows
        return rows
