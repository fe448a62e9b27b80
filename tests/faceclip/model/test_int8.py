"""The encoder in int8: how far it is from fp32, what it holds, and where it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import Linear

from faceclip import FaceCLIPEncoder
from faceclip.model.int8 import Int8Linear

MINI = Path(__file__).resolve().parents[3] / "models" / "faceclip" / "faceclip_mini_encoder.safetensors"


def away(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_its_rounded_weights_times_its_rounded_input(bias: bool) -> None:
    torch.manual_seed(0)
    layer, x = Linear(64, 48, bias=bias), torch.randn(2, 5, 64)
    with torch.no_grad():
        layer.weight[3] = 0  # has a scale, too
        x[0, 1, 7] = 200.0  # of one token; the others keep their precision
        found, expected = Int8Linear(layer.weight, layer.bias)(x), layer(x)
    scale = layer.weight.abs().amax(1, keepdim=True) / 127
    token = x.abs().amax(-1, keepdim=True) / 127
    rounded = (x / token).round() @ (layer.weight / scale.clamp_min(1e-30)).round().t() * token * scale.t()
    rounded = rounded + layer.bias if bias else rounded
    assert away(found, rounded.detach()) < 1e-6
    calm = torch.arange(5) != 1
    assert away(found[:, calm], expected[:, calm]) < 0.012 and found.dtype == torch.float32
    assert torch.equal(Int8Linear(layer.weight, layer.bias)(x, slice(8, 16)), found[..., 8:16])


def test_values_that_are_not_finite_stay_so() -> None:
    layer = Int8Linear(torch.randn(8, 8), None)
    for value in (float("nan"), float("inf")):
        x = torch.ones(2, 8)
        x[1, 3] = value
        assert layer(x).isfinite().all(-1).tolist() == [True, False]


def test_mini_in_int8_is_near_fp32_and_sees_the_same_person() -> None:
    exact, small = FaceCLIPEncoder.from_file(MINI), FaceCLIPEncoder.from_file(MINI, dtype=torch.int8)
    faces = torch.rand(2, 3, 448, 448, generator=torch.Generator().manual_seed(0))
    people = exact.encode_faces(faces)
    assert torch.equal(small.encode_faces(faces).patch_tokens, people.patch_tokens)
    for prompt, strength in (("a man in a red hat", 1.0), ("a (woman:1.3) on a beach", 0.5)):
        expected, found = (encoder.encode([prompt], people, strength=strength) for encoder in (exact, small))
        assert 1e-4 < away(found.embeddings, expected.embeddings) < 0.04
        assert away(found.pooled, expected.pooled) < 0.04
    layers = [layer for branch in small.branches.values() for layer in (*branch.transformer.modules(), *branch.fuser.modules())]
    assert not any(isinstance(layer, Linear) for layer in layers)
    assert sum(isinstance(layer, Int8Linear) for layer in layers) > 100


def test_what_int8_cannot_do_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not saved: its weights are rounded"):
        FaceCLIPEncoder.from_file(MINI, dtype=torch.int8).save(tmp_path / "a.safetensors")
    elsewhere = FaceCLIPEncoder.from_file(MINI)
    elsewhere.compute_device = torch.device("cuda")
    with pytest.raises(ValueError, match="computes on a CPU; this one is on cuda. Choose fp16 or bf16"):
        elsewhere.to_int8()
