"""Whose face conditions a row of finetuning: the frozen face tower's features, computed at every step or read from a cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from faceclip import FaceCLIPEncoder, Identity

from ..cache.features import FeatureCache, require_face_tower
from ..frozen.faces import identity_of_faces, with_blank
from .reader import RowReader
from .rows import Draws, Rows


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


BLOCK = 64
"""Neighbouring rows whose conditions are computed together."""
Condition = tuple[Tensor, Tensor]


class RememberedConditions:
    """`remembered(rows)` is `compute(rows)`, from the CPU's memory where it was computed before.

    What is missing is computed with its neighbours, always the same rows in the same places: the last bits of a row's condition
    depend on the rows beside it, and a resumed run, whose memory is empty, must find the same.
    """

    def __init__(self, compute: Callable[[Rows], Condition], reader: RowReader):
        self._compute = compute
        self._reader = reader
        self._blocks: dict[tuple[int, bool, bool], Condition] = {}
        self._neighbours: dict[int, Rows] = {}

    def __call__(self, rows: Rows) -> Condition:
        """Embeddings [b, 77, d] and pooled [b, p], on the CPU."""
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
        rows = self._reader.rows(list(range(block * BLOCK, min((block + 1) * BLOCK, self._reader.count))), [], pictures=False)
        if rows.faces is None:
            self._neighbours[block] = rows
        return rows
