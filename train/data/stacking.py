"""Rows to batches: stacked once, straight into the memory that they travel to the GPU from."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


class DataError(ValueError):
    """Training data that cannot be used as asked: what is wrong and what to do."""


_LARGE = 1 << 20
"""Bytes of a tensor whose memory is used again."""
_left: deque[np.ndarray] = deque(maxlen=4)
"""Memory that was lent and came back, the oldest first, which goes when there is more."""
Part = Mapping[str, np.ndarray | list[str]]
"""Some rows, stacked: arrays [n, ...], and lists of n strings."""


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stack rows: arrays and numbers become tensors [b, ...], strings lists.

    Raises:
        DataError: an entry has another shape in one row than in the first.
    """
    return stack_rows(rows, pin=False)


def stack_rows(rows: Sequence[Mapping[str, Any]], pin: bool) -> dict[str, Any]:
    """`collate`, with `pin` in page-locked memory, which a GPU reads by itself."""
    parts = [
        {name: [value] if isinstance(value, str) else np.asarray(value)[None] for name, value in row.items()} for row in rows
    ]
    _require_one_shape([row["key"] for row in rows], parts)
    return join_parts(parts, pin)


def join_parts(parts: Sequence[Part], pin: bool) -> dict[str, Any]:
    """Rows of several parts in one batch of tensors and lists of strings. Their shapes are alike."""
    return {name: _join([part[name] for part in parts], pin) for name in parts[0]}


def _join(values: Sequence[Any], pin: bool) -> list[str] | Tensor:
    if isinstance(values[0], list):
        return [each for value in values for each in value]
    # A picture as a decoder leaves it: its colours are the last axis in memory. Turned over row by row it would take ten times
    # as long to copy, so that the batch keeps the order and shows it by its strides.
    turned = values[0].ndim == 4 and not values[0].flags.c_contiguous and values[0].transpose(0, 2, 3, 1).flags.c_contiguous
    arrays = [value.transpose(0, 2, 3, 1) for value in values] if turned else values
    shape = (sum(map(len, arrays)), *arrays[0].shape[1:])
    batch = _memory(shape, arrays[0].dtype, pin)
    filled, start = batch.numpy(), 0
    for array in arrays:
        filled[start : start + len(array)] = array
        start += len(array)
    return batch.permute(0, 3, 1, 2) if turned else batch


def _memory(shape: tuple[int, ...], kind: np.dtype[Any], pin: bool) -> Tensor:
    """A tensor to fill.

    Large ones take the memory of an earlier one that nobody holds any more: whoever drops 64 faces would wait
    3 ms until the system has taken it back. Page-locked memory torch keeps by itself.
    """
    size = int(np.prod(shape)) * kind.itemsize
    if pin or size < _LARGE:
        return torch.empty(shape, dtype=torch.from_numpy(np.empty(0, kind)).dtype, pin_memory=pin)
    memory = _unused(size)
    if memory is None:
        memory = np.empty(size, np.uint8)
    lent = memory.view(kind).reshape(shape)
    weakref.finalize(lent, _left.append, memory).atexit = False  # a tensor holds it for as long as any view of it lives
    return torch.from_numpy(lent)


def _unused(size: int) -> np.ndarray | None:
    for _ in range(len(_left)):
        try:
            memory = _left.popleft()
        except IndexError:  # another thread was faster
            return None
        if memory.nbytes == size:
            return memory
        _left.append(memory)
    return None


def part_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One part of some rows, in plain memory: grain passes arrays between processes in shared memory, torch's own
    tensors by sockets that die with a worker."""
    batch = collate(rows)
    return {name: value.numpy() if isinstance(value, Tensor) else value for name, value in batch.items()}


def _require_one_shape(keys: Sequence[str], parts: Sequence[Part]) -> None:
    for name, first in parts[0].items():
        if isinstance(first, list):
            continue
        for key, part in zip(keys, parts, strict=True):
            shape = part[name].shape  # type: ignore[union-attr]
            if shape != first.shape:
                raise DataError(
                    f"The {name} of sample {key!r} has shape {list(shape[1:])}, others of the batch {list(first.shape[1:])}."
                )
