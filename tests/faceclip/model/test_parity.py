"""The encoder computes what the reference implementation computes: names, shapes, token ids, and numbers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

FP32, BF16 = 5e-6, 2e-2


def relative_error(result, reference) -> float:
    return ((result.double() - reference.double()).norm() / reference.double().norm()).item()


def test_full_size_encoder_has_exactly_the_released_names_and_shapes(full_golden):
    from faceclip import FaceCLIPConfig, FaceCLIPEncoder

    with torch.device("meta"):
        encoder = FaceCLIPEncoder(FaceCLIPConfig.preset("sdxl"))
    found = {name: list(tensor.shape) for name, tensor in encoder.state_dict().items()}
    assert len(found) == 1686
    assert found == full_golden.shapes


def check_parity(golden, dtype: torch.dtype, bound: float) -> dict[str, float]:
    encoder = golden.encoder().to(dtype)
    encoder.compute_dtype = dtype
    identity = encoder.encode_faces(golden.faces)
    conditioning = encoder.encode(golden.prompts, identity)
    ids = torch.cat([prompt.input_ids for prompt in conditioning.prompts])
    assert torch.equal(ids, golden.outputs["input_ids"])
    results = {"embeddings": conditioning.embeddings, "pooled": conditioning.pooled}
    with torch.no_grad():
        for name, output in encoder(ids, identity).items():
            results[f"face_clip_{name}.fused"] = output.fused
            results[f"face_clip_{name}.pooled"] = output.pooled
            results[f"face_clip_{name}.text_feature"] = F.normalize(output.text_feature, dim=-1)
    for tower, name in enumerate(encoder.branches):
        results[f"face_clip_{name}.face_feature"] = F.normalize(identity.class_token[:, tower], dim=-1)
    errors = {name: relative_error(results[name], value) for name, value in golden.outputs.items() if name != "input_ids"}
    assert max(errors.values()) <= bound, errors
    return errors


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, FP32), (torch.bfloat16, BF16)])
def test_tiny_encoder_matches_the_reference(tiny_golden, dtype, bound):
    errors = check_parity(tiny_golden, dtype, bound)
    assert len(errors) == 10


@pytest.mark.full_size
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, FP32), (torch.bfloat16, BF16)])
def test_full_size_encoder_matches_the_reference(full_golden, dtype, bound):
    """About 6.3 GB of memory and a few minutes: `pytest --full-size tests/faceclip/model/test_parity.py -s`."""
    for name, error in check_parity(full_golden, dtype, bound).items():
        print(f"{dtype} {name}: {error:.2g}")


def test_text_only_equals_the_rows_without_a_face(tiny_golden, tiny_encoder):
    rows = [1, 3]
    conditioning = tiny_encoder.encode([tiny_golden.prompts[i] for i in rows])
    assert relative_error(conditioning.embeddings, tiny_golden.outputs["embeddings"][rows]) <= FP32
    assert relative_error(conditioning.pooled, tiny_golden.outputs["pooled"][rows]) <= FP32


def test_weights_kept_in_bf16_and_computed_in_fp32_stay_within_the_bf16_bound(tiny_golden, tmp_path):
    from faceclip import FaceCLIPEncoder

    tiny_golden.encoder().save(tmp_path / "encoder.safetensors")
    encoder = FaceCLIPEncoder.from_file(tmp_path / "encoder.safetensors", dtype=torch.bfloat16, compute_dtype=torch.float32)
    assert {p.dtype for p in encoder.parameters()} == {torch.bfloat16}
    conditioning = encoder.encode(tiny_golden.prompts, encoder.encode_faces(tiny_golden.faces))
    assert conditioning.embeddings.dtype == torch.float32
    assert 1e-6 < relative_error(conditioning.embeddings, tiny_golden.outputs["embeddings"]) <= BF16


def test_the_check_notices_a_wrong_model(tiny_golden):
    """A parity test that cannot fail proves nothing: one altered layer scale must break the bound."""
    encoder = tiny_golden.encoder()
    with torch.no_grad():
        encoder.face_clip_l.fuser.encoder.fusion_layers[5].gamma_l.mul_(1.01)
    embeddings = encoder.encode(tiny_golden.prompts, encoder.encode_faces(tiny_golden.faces)).embeddings
    assert relative_error(embeddings, tiny_golden.outputs["embeddings"]) > FP32
