"""Any accepted encoder file to ours, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from .config import METADATA_KEY, FaceCLIPConfig
from .encoder_file import TOWER, config_of, convert_tensor, open_encoder_file, require_exact, twin
from .model.encoder import FaceCLIPEncoder
from .ops import without_values
from .tensor_file import Entry, digest, write_tensor_file


def convert(
    source: str | Path, target: str | Path, dtype: torch.dtype, progress: Callable[[int, int], None] | None = None
) -> None:
    """Convert any accepted encoder file to ours, tensor by tensor: memory never holds two tensors of the file at once.

    The target appears whole and verified, or not at all. `progress(done, total)` counts tensors read; each is read twice, to
    write and to verify. Raises CheckpointError, also for values that `dtype` cannot hold.
    """
    file = open_encoder_file(source)
    config = config_of(file)
    entries = dict(file.entries)
    if "l" in config.branches and "g" in config.branches and _towers_are_equal(entries):
        entries = {name: entry for name, entry in entries.items() if not name.startswith(TOWER)}
    require_exact(file, _skeleton(config), entries, shared="face_clip_g.face_encoder.pos_embed" not in entries)
    done = 0

    def converted(name: str, entry: Entry) -> Entry:
        def read() -> Tensor:
            nonlocal done
            done += 1
            if progress:
                progress(done, 2 * len(entries))
            return convert_tensor(name, entry.read(), dtype)

        return Entry(dtype if entry.dtype.is_floating_point else entry.dtype, entry.shape, read)

    metadata = {"format": "faceclip_encoder", METADATA_KEY: config.to_json()}
    write_tensor_file(target, {name: converted(name, entry) for name, entry in entries.items()}, metadata)


def _towers_are_equal(entries: Mapping[str, Entry]) -> bool:
    own = [name for name in entries if name.startswith(TOWER)]
    return all(twin(name) in entries and digest(entries[name]) == digest(entries[twin(name)]) for name in own)


def _skeleton(config: FaceCLIPConfig) -> FaceCLIPEncoder:
    with without_values():
        return FaceCLIPEncoder(config)
