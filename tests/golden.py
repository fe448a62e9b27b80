"""The golden models: stand-in weights that any machine can make again,
and the golden FaceT5's inputs and outputs."""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from faceclip import FaceT5Encoder

GOLDEN = Path(__file__).resolve().parent / "fixtures" / "golden_t5"


@dataclass(frozen=True)
class GoldenT5:
    """The tiny golden model: its released-style file, what goes in, what the reference implementation gave."""

    file: Path
    prompts: list[str]
    faces: Tensor  # [5, 3, 448, 448]; black where the row has no face
    outputs: dict[str, Tensor]

    def encoder(self, dtype: torch.dtype = torch.float32) -> FaceT5Encoder:
        """From the file, computing in `dtype`."""
        return FaceT5Encoder.from_file(self.file, dtype=dtype, compute_dtype=dtype)


def golden_shapes(name: str) -> dict[str, list[int]]:
    return json.loads((GOLDEN / f"manifest_{name}.json").read_text())


def golden_faces(exist: list[bool], rows: list[int] | None = None, made: int | None = None) -> Tensor:
    seed = json.loads((GOLDEN / "inputs.json").read_text())["face_seed"]
    noise = torch.rand(made or len(exist), 3, 14, 14, generator=torch.Generator().manual_seed(seed))
    faces = F.interpolate(noise, size=(448, 448), mode="bilinear")
    return (faces[rows] if rows else faces) * torch.tensor(exist)[:, None, None, None]


def golden_t5(file: Path) -> GoldenT5:
    """The tiny golden FaceT5; writes its file, as the release stores its own, unless it is there."""
    if not file.exists():
        torch.save(stand_in_weights(golden_shapes("tiny")), file)
    inputs = json.loads((GOLDEN / "inputs.json").read_text())
    faces = golden_faces(inputs["face_exists"], inputs["rows"], inputs["made"])
    return GoldenT5(file, inputs["texts"], faces, load_file(GOLDEN / "tiny.safetensors"))


def stand_in_weights(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """The golden models' weights: each tensor a pure function of its name and shape."""
    return {name: _stand_in(name, shape) for name, shape in shapes.items()}


def _stand_in(name: str, shape: list[int]) -> Tensor:
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(f"0:{name}".encode())))
    if leaf == "running_var":
        return 0.5 + noise.abs()
    if leaf in ("gamma_v", "gamma_l"):
        return 0.5 * noise
    if leaf in ("running_mean", "positional_embedding", "pos_embed", "mask_token") or "token_embedding" in name:
        return 0.1 * noise
    if leaf in ("logit_scale", "logit_bias"):
        return 1 + 0.1 * noise
    if name.endswith("sampling_offsets.bias"):
        return noise
    if len(shape) == 1:
        return 1 + 0.1 * noise if leaf == "weight" else 0.02 * noise
    fan_in = shape[0] if leaf == "text_projection" else math.prod(shape[1:])
    return noise * fan_in**-0.5
