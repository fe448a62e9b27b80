"""Safetensors files, held to what the safetensors library accepts: every byte is one tensor's, and one's only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from . import safetensors_header
from .tensor_entry import Bytes, CheckpointError, TensorFile

LARGEST_HEADER = 50_000_000  # bytes; the largest models' have 5 million
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
# Those that torch has not always had.
for _name, _torch_name in (
    *(("U16", "uint16"), ("U32", "uint32"), ("U64", "uint64"), ("F8_E8M0", "float8_e8m0fnu")),
    *(("F8_E4M3FNUZ", "float8_e4m3fnuz"), ("F8_E5M2FNUZ", "float8_e5m2fnuz")),
):
    if hasattr(torch, _torch_name):
        DTYPES[_name] = getattr(torch, _torch_name)


@dataclass(frozen=True)
class _Span:
    name: str
    kind: str
    shape: tuple[int, ...]
    begin: int
    end: int


def open_safetensors(path: Path, size: int, length: int) -> TensorFile:
    """Open a file of `size` bytes whose header has `length`. Raises CheckpointError."""
    data = safetensors_header.LENGTH + length
    if size < data:
        raise CheckpointError(f"{path} is incomplete: {size:,} of at least {data:,} bytes are there. Download it again.")
    with path.open("rb") as file:
        file.seek(safetensors_header.LENGTH)
        header = file.read(length)
    try:
        described = safetensors_header.unpack(header)
        metadata = described.pop("__metadata__", None) or {}
        if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
            raise TypeError(f"its metadata is {str(metadata)[:40]}, not strings by name")
        spans = [_span(name, tensor) for name, tensor in described.items()]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged: its header cannot be read ({type(error).__name__}: {str(error)[:200]}). Download it again."
        ) from error
    _require_layout(path, spans, size - data)
    _require_known(path, spans)
    source = Bytes(path)
    entries = {span.name: source.entry(data + span.begin, DTYPES[span.kind], span.shape) for span in spans}
    return TensorFile(path, entries, metadata)


def _span(name: str, tensor: Mapping[str, Any]) -> _Span:
    kind, shape, (begin, end) = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
    if not isinstance(kind, str) or not isinstance(shape, list):
        raise TypeError(f"the entry for {name[:80]!r} has the type {str(kind)[:40]} and the shape {str(shape)[:40]}")
    numbers = (*shape, begin, end)
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers) or end < begin:
        raise ValueError(f"the entry for {name[:80]!r} contradicts itself")
    if kind in DTYPES and end - begin != prod(shape) * DTYPES[kind].itemsize:
        raise ValueError(f"the entry for {name[:80]!r} contradicts itself: {shape} of {kind} does not take {end - begin} bytes")
    return _Span(name, kind, tuple(shape), begin, end)


def _require_layout(path: Path, spans: list[_Span], size: int) -> None:
    place = 0
    for span in sorted(spans, key=lambda span: (span.begin, span.end)):
        if span.begin != place:
            what = "overlaps the one before it" if span.begin < place else "leaves a gap before it"
            raise CheckpointError(f"{path} is damaged: by its header, the tensor {span.name!r} {what}. Download it again.")
        place = span.end
    if size < place:
        raise CheckpointError(f"{path} is incomplete: {size:,} of {place:,} bytes of tensors are there. Download it again.")
    if size > place:
        raise CheckpointError(
            f"{path} is damaged: {size - place:,} bytes follow its last tensor, as after a download that was joined wrongly. "
            "Download it again."
        )


def _require_known(path: Path, spans: list[_Span]) -> None:
    unknown = [span for span in spans if span.kind not in DTYPES]
    if unknown:
        raise CheckpointError(
            f"{path} holds {len(unknown)} tensors in the number format {unknown[0].kind[:20]!r}, the first {unknown[0].name!r}, "
            "which this version does not read. The file need not be damaged: use one of it in fp32, bf16, fp16 or fp8."
        )
