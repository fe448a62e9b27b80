"""What a safetensors file begins with: 8 bytes of length, then JSON that
tells the type, shape and place of each tensor."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

LENGTH = 8
"""Bytes that hold how long the JSON is."""


def length_of(start: bytes) -> int:
    """How long the JSON is, of a file that begins with `start`."""
    return int.from_bytes(start[:LENGTH], "little")


def unpack(text: bytes) -> dict[str, Any]:
    """The JSON as it stands: `dtype`, `shape` and `data_offsets` of each tensor by its name, and `__metadata__`.

    Raises ValueError, RecursionError or TypeError for anything else, and for a name that is there twice.
    """
    found = json.loads(text, object_pairs_hook=_each_once)
    if not isinstance(found, dict):
        raise TypeError(f"it holds a {type(found).__name__}")
    return found


def pack(tensors: Iterable[tuple[str, str, Iterable[int], int]], metadata: Mapping[str, str]) -> bytes:
    """The beginning of a file: name, type, shape and number of bytes of each
    tensor, in the order in which they follow it."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, kind, shape, size in tensors:
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the numbers after it start at a multiple of their size
    return len(text).to_bytes(LENGTH, "little") + text


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"{twice[:80]!r} is in it twice")
    return found
