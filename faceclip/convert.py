"""Any accepted encoder file to ours, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from .config import METADATA_KEY, FaceCLIPConfig
from .encoder_file import TOWER, Progress, config_of, open_encoder_file, require_encoder, twin, write_converted
from .model.encoder import FaceCLIPEncoder
from .ops import without_values
from .tensor_file import Entry, digest


def convert(source: str | Path, target: str | Path, dtype: torch.dtype, progress: Progress | None = None) -> None:
    """Convert any accepted encoder file to ours, tensor by tensor: memory
    never holds two tensors of the file at once.

    The target appears whole and verified, or not at all. `progress(done, total)` counts tensors read; each is
    read twice, to write and to verify. Raises CheckpointError, also for values that `dtype` cannot hold.
    """
    file = open_encoder_file(source)
    config = config_of(file)
    entries = dict(file.entries)
    if "l" in config.branches and "g" in config.branches and _towers_are_equal(entries):
        entries = {name: entry for name, entry in entries.items() if not name.startswith(TOWER)}
    require_encoder(file, _skeleton(config), entries, shared="face_clip_g.face_encoder.pos_embed" not in entries)
    metadata = {"format": "faceclip_encoder", METADATA_KEY: config.to_json()}
    write_converted([(target, entries, metadata)], dtype, progress)


def _towers_are_equal(entries: Mapping[str, Entry]) -> bool:
    own = [name for name in entries if name.startswith(TOWER)]
    return all(twin(name) in entries and digest(entries[name]) == digest(entries[twin(name)]) for name in own)


def _skeleton(config: FaceCLIPConfig) -> FaceCLIPEncoder:
    with without_values():
        return FaceCLIPEncoder(config)
