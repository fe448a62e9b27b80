"""FaceT5 computes what the reference implementation computes: names, shapes, and numbers."""

from __future__ import annotations

import pytest
import torch

from faceclip import FaceT5Encoder
from faceclip.flux.config import PRESETS
from faceclip.flux.names import own_shapes, released_shapes

from ...golden import golden_shapes

FP32, BF16 = 5e-6, 2e-2


def relative_error(result, reference) -> float:
    return ((result.double() - reference.double()).norm() / reference.double().norm()).item()


@pytest.mark.parametrize(("preset", "golden_name", "count"), [("flux", "full", 958), ("tiny", "tiny", 358)])
def test_the_released_names_and_shapes_are_known_exactly(preset, golden_name, count):
    found = {name: list(shape) for name, shape in released_shapes(PRESETS[preset]).items()}
    assert len(found) == count
    assert found == golden_shapes(golden_name)


@pytest.mark.parametrize("class_head", [True, False])
def test_what_is_kept_is_what_the_module_has(class_head):
    config = PRESETS["flux"].own
    with torch.device("meta"):
        encoder = FaceT5Encoder(config, class_head=class_head)
    assert {name: tuple(t.shape) for name, t in encoder.state_dict().items()} == own_shapes(config, class_head)
    values = sum(t.numel() for t in encoder.state_dict().values())
    assert round(values / 1e6, 1) == (1108.8 if class_head else 1023.4)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, FP32), (torch.bfloat16, BF16)])
def test_tiny_facet5_matches_the_reference(golden, dtype, bound):
    encoder = golden.encoder(dtype)
    identity = encoder.encode_faces(golden.faces)
    embeddings = encoder.encode(golden.outputs["t5_hidden"], identity)
    errors = {
        "patch_tokens": relative_error(identity.patch_tokens[:, 0], golden.outputs["patch_tokens"]),
        "class_token": relative_error(identity.class_token[:, 0], golden.outputs["class_token"]),
        "embeddings": relative_error(embeddings, golden.outputs["embeddings"]),
    }
    print(dtype, {name: f"{error:.2g}" for name, error in errors.items()})
    assert embeddings.dtype == dtype
    assert max(errors.values()) <= bound, errors


def test_no_identity_is_the_black_face(golden):
    encoder = golden.encoder()
    rows = [i for i, present in enumerate(encoder.encode_faces(golden.faces).present) if not present]
    assert len(rows) == 2
    embeddings = encoder.encode(golden.outputs["t5_hidden"][rows])
    assert relative_error(embeddings, golden.outputs["embeddings"][rows]) <= FP32


def test_the_check_notices_a_wrong_model(golden):
    """A parity test that cannot fail proves nothing: one altered layer scale must break the bound."""
    encoder = golden.encoder()
    encoder.fuser.encoder.fusion_layers[5].gamma_l.mul_(1.01)
    embeddings = encoder.encode(golden.outputs["t5_hidden"], encoder.encode_faces(golden.faces))
    assert relative_error(embeddings, golden.outputs["embeddings"]) > FP32
