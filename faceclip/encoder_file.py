"""Files of FaceCLIP encoders: what they hold, and whether it is all there.

`FaceCLIPEncoder.from_file` reads one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from .config import METADATA_KEY, FaceCLIPConfig
from .recognize import ENCODER, plain_names, recognize
from .tensor_file import CheckpointError, Entry, TensorFile, open_tensor_file, require_exact, write_tensor_file

Progress = Callable[[int, int], None]
Job = tuple[str | Path, Mapping[str, Entry], Mapping[str, str]]
"""A file to write: its path, its tensors before they are converted, and its metadata."""

_OWN = "face_clip_"  # how the name of each tensor of an encoder begins
TOWER, SAME_TOWER = "face_clip_g.face_encoder.", "face_clip_l.face_encoder."
_LOOKED_AT_ONCE = 1 << 22  # values: copies of the largest tensor would be a GB


def open_encoder_file(path: str | Path) -> TensorFile:
    """Open a file and make sure that it is a FaceCLIP encoder. Raises CheckpointError.

    Names come without what a trainer wrapped around them: `model.`, `module.`, `ema.`, ...
    """
    file = open_tensor_file(path)
    kind = recognize(file.entries)
    if kind.name != ENCODER:
        raise CheckpointError(f"{file.path} is not a FaceCLIP encoder: it looks like this: {kind}")
    plain = plain_names(file.entries)
    prefixes = sorted({name[: name.index(_OWN)] for name in plain.values() if name.startswith(_OWN) or f".{_OWN}" in name})
    if len(prefixes) > 1:
        raise CheckpointError(
            f"{file.path} holds several FaceCLIP encoders, under the names {', '.join(map(repr, prefixes))}. Save one of them in "
            "a file of its own."
        )
    return file.under(prefixes[0], plain)


def stored_dtype(path: str | Path) -> torch.dtype:
    """What a file of weights keeps most of its values in. Raises CheckpointError."""
    counts: Counter[torch.dtype] = Counter()
    for entry in open_tensor_file(path).entries.values():
        counts[entry.dtype] += prod(entry.shape)
    return max(counts, key=lambda dtype: counts[dtype])


def convert_tensor(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor` in `dtype` (integers stay).

    Raises CheckpointError where a finite value is beyond the range of `dtype`.
    """
    if not tensor.is_floating_point() or tensor.dtype == dtype:
        return tensor
    if dtype.itemsize <= 2 and dtype != torch.bfloat16:
        largest = _largest_finite(tensor)
        if largest > torch.finfo(dtype).max:
            bits = 8 * dtype.itemsize
            raise CheckpointError(f"{name} has values beyond fp{bits}'s range (up to {largest:.3g}). Choose bf16 or fp32.")
    return tensor.to(dtype)


def _largest_finite(tensor: Tensor) -> float:
    """The largest magnitude of a tensor's finite values, by copies of small parts of it where it has others."""
    if not tensor.numel():
        return 0
    if tensor.dtype.itemsize > 1:
        # Without a copy: many of a tensor's size, among tensors that stay, leave holes in memory that nobody gets back.
        largest = max(abs(end.item()) for end in tensor.aminmax())
        if math.isfinite(largest):
            return largest
    parts = tensor.flatten().split(_LOOKED_AT_ONCE)
    return max(part.float().nan_to_num(0, 0, 0).abs().max().item() for part in parts)


def config_of(file: TensorFile) -> FaceCLIPConfig:
    """The configuration that a file holds, or that its shapes tell. Raises CheckpointError."""
    try:
        if METADATA_KEY in file.metadata:
            config = FaceCLIPConfig.from_json(file.metadata[METADATA_KEY])
            config.require_shapes(file.shapes)
            return config
        return FaceCLIPConfig.from_shapes(file.shapes)
    except ValueError as error:
        raise CheckpointError(f"{file.path}: {error}") from error


def share_face_tower(tensors: dict[str, Tensor], config: FaceCLIPConfig) -> bool:
    """Whether both branches have the same face tower; if so, both names then stand for the same memory."""
    if not {"l", "g"} <= set(config.branches):
        return False
    own = [name for name in tensors if name.startswith(TOWER)]
    if not all(torch.equal(tensors[name], tensors[twin(name)]) for name in own if twin(name) in tensors):
        return False
    for name in [name for name in tensors if name.startswith(SAME_TOWER)]:
        tensors[TOWER + name.removeprefix(SAME_TOWER)] = tensors[name]
    return True


def twin(name: str) -> str:
    """The name under which branch `l` has a tensor of branch `g`'s face tower."""
    return SAME_TOWER + name.removeprefix(TOWER)


def require_encoder(file: TensorFile, encoder: nn.Module, tensors: Mapping[str, Tensor | Entry], shared: bool = False) -> None:
    """Raise CheckpointError unless `tensors` are every tensor of the encoder, in its shape, and no other.

    shared: the face tower that both branches have is there once, under branch `l`'s names.
    """
    expected = {n: tuple(t.shape) for n, t in encoder.state_dict().items() if not (shared and n.startswith(TOWER))}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    advice = "Download the released file again, or convert it with this version of the pack."
    require_exact(file.path, found, expected, "FaceCLIP encoder", advice)


def read_converted(
    entries: Mapping[str, Entry], dtype: torch.dtype, device: torch.device, progress: Progress | None = None
) -> dict[str, Tensor]:
    """All tensors in `dtype` (integers stay) on `device`. `progress` is told (tensors read, of how many)."""
    tensors = {}
    for done, (name, entry) in enumerate(entries.items(), 1):
        changes = entry.dtype.is_floating_point and entry.dtype != dtype
        tensors[name] = convert_tensor(name, entry.mapped() if changes else entry.read(), dtype).to(device)
        if entry.let_go:
            entry.let_go()
        if progress:
            progress(done, len(entries))
    return tensors


def write_converted(jobs: Sequence[Job], dtype: torch.dtype, progress: Progress | None = None) -> None:
    """Write files of tensors in `dtype`, one tensor in memory at a time.

    Each appears whole and verified, or not at all.

    `progress` is told (tensors read, of how many); each is read twice, to
    write and to verify. Raises CheckpointError.
    """
    total, done = 2 * sum(len(entries) for _, entries, _ in jobs), 0

    def converted(name: str, entry: Entry) -> Entry:
        def read() -> Tensor:
            nonlocal done
            done += 1
            if progress:
                progress(done, total)
            return convert_tensor(name, entry.read(), dtype)

        return Entry(dtype if entry.dtype.is_floating_point else entry.dtype, entry.shape, read)

    for path, entries, metadata in jobs:
        write_tensor_file(path, {name: converted(name, entry) for name, entry in entries.items()}, metadata)
