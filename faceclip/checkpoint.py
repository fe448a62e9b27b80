"""Weights in and out, for programs that use the library: training, the proof, and scripts of yours."""

from __future__ import annotations

from .model.encoder import FaceCLIPEncoder
from .tensor_file import CheckpointError, read_state_dict, write_safetensors

__all__ = [
    "CheckpointError",
    "load_encoder",
    "read_state_dict",
    "write_safetensors",
]

load_encoder = FaceCLIPEncoder.from_file
"""`load_encoder(path, device, dtype)`: its name before the encoder read itself, kept for scripts that import it."""
