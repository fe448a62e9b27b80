"""Joint conditions of small data, kept in memory: the encoder runs once for each sample and each way to drop its conditions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from .finetune_data import Draws, RowReader, Rows

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
