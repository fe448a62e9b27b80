"""The public encoder: broadcasting, strength, weights, long prompts, caching, precision, and bad input."""

from __future__ import annotations

import pytest
import torch

from faceclip import FaceCLIPConfig, FaceCLIPEncoder


@pytest.fixture(scope="module")
def encoder() -> FaceCLIPEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = FaceCLIPEncoder(FaceCLIPConfig.preset("mini")).eval()
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if name.endswith(("gamma_v", "gamma_l")):
                parameter.fill_(1.0)
    return encoder


@pytest.fixture(scope="module")
def faces() -> torch.Tensor:
    return torch.rand(3, 3, 448, 448, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def identity(encoder, faces):
    return encoder.encode_faces(faces)


def close(first, second, tolerance: float = 1e-5) -> bool:
    """Batches of other sizes may round differently; the same computation up to that."""
    return torch.allclose(first, second, atol=tolerance, rtol=1e-4)


def test_shapes(encoder, identity):
    conditioning = encoder.encode(["a man on a beach"], identity)
    assert conditioning.embeddings.shape == (3, 77, encoder.config.width)
    assert conditioning.pooled.shape == (3, encoder.config.pooled_width)


def test_one_identity_serves_all_prompts_and_one_prompt_all_identities(encoder, identity):
    prompts = ["a man on a beach", "studio light", "in the rain"]
    each = encoder.encode(prompts, identity)
    one_person = encoder.encode(prompts, identity[1])
    one_prompt = encoder.encode(prompts[1:2], identity)
    alone = encoder.encode(prompts[1:2], identity[1])
    for result in (each, one_person, one_prompt):
        assert close(result.embeddings[1], alone.embeddings[0])
        assert close(result.pooled[1], alone.pooled[0])


def test_numbers_that_do_not_match_are_refused(encoder, identity):
    with pytest.raises(ValueError, match="2 prompts and 3 identities do not match"):
        encoder.encode(["a", "b"], identity)
    with pytest.raises(ValueError, match="no prompt"):
        encoder.encode([], identity)
    with pytest.raises(ValueError, match="takes a list"):
        encoder.encode("a cat", identity)
    with pytest.raises(ValueError, match="holds no person"):
        encoder.encode(["a"], identity[:0])


def test_identity_and_prompt_both_matter(encoder, identity):
    base = encoder.encode(["a cat"], identity[0])
    assert not close(base.embeddings, encoder.encode(["a cat"], identity[1]).embeddings, 1e-3)
    assert not close(base.embeddings, encoder.encode(["a dog"], identity[0]).embeddings, 1e-3)


def test_strength_zero_is_text_only_bit_for_bit_and_one_is_the_model_as_trained(encoder, identity):
    text_only = encoder.encode(["a cat"])
    zero = encoder.encode(["a cat"], identity[0], strength=0)
    assert torch.equal(zero.embeddings, text_only.embeddings)
    assert torch.equal(zero.pooled, text_only.pooled)
    full = encoder.encode(["a cat"], identity[0])
    assert torch.equal(encoder.encode(["a cat"], identity[0], strength=1.0).embeddings, full.embeddings)
    half = encoder.encode(["a cat"], identity[0], strength=0.5)
    assert close(half.embeddings, (full.embeddings + text_only.embeddings) / 2)
    beyond = encoder.encode(["a cat"], identity[0], strength=1.5)
    assert close(beyond.embeddings, 1.5 * full.embeddings - 0.5 * text_only.embeddings, 1e-4)


def test_a_black_crop_conditions_like_text_alone(encoder, faces):
    mixed = faces.clone()
    mixed[1] = 0
    identity = encoder.encode_faces(mixed)
    assert identity.present.tolist() == [True, False, True]
    conditioning = encoder.encode(["a cat"], identity)
    assert close(conditioning.embeddings[1], encoder.encode(["a cat"]).embeddings[0])


def test_weighted_words_move_away_from_the_empty_prompt(encoder, identity):
    plain, empty = encoder.encode(["a cat"], identity[0]), encoder.encode([""], identity[0])
    weighted = encoder.encode(["a (cat:1.5)"], identity[0])
    position = plain.prompts[0].input_ids[0].tolist().index(2368)
    expected = plain.embeddings.clone()
    expected[0, position] = empty.embeddings[0, position] + 1.5 * (plain.embeddings[0, position] - empty.embeddings[0, position])
    assert close(weighted.embeddings, expected, 1e-4)
    assert torch.equal(weighted.pooled, plain.pooled)


def test_weights_equal_one_change_nothing(encoder, identity):
    assert torch.equal(encoder.encode(["a (cat:1.0)"], identity).embeddings, encoder.encode(["a cat"], identity).embeddings)


def test_chunks_carry_the_identity_each_and_short_prompts_are_filled_up(encoder, identity, caplog):
    long = "red blue green " * 30
    conditioning = encoder.encode([long, "a cat"], identity[0], long_prompts="chunk")
    assert conditioning.embeddings.shape == (2, 154, encoder.config.width)
    assert not caplog.records
    short = encoder.encode(["a cat"], identity[0]).embeddings
    assert close(conditioning.embeddings[1, :77], short[0])
    assert close(conditioning.embeddings[1, 77:], encoder.encode([""], identity[0]).embeddings[0])
    other = encoder.encode([long, "a cat"], identity[1], long_prompts="chunk")
    assert not close(conditioning.embeddings[0, 77:], other.embeddings[0, 77:], 1e-3)


def test_strength_between_with_chunks_keeps_every_chunk(encoder, identity):
    long = "word " * 72  # one chunk without the prefix, two with it
    assert encoder.encode([long], long_prompts="chunk").embeddings.shape[1] == 77
    assert encoder.encode([long], identity[0], strength=0.5, long_prompts="chunk").embeddings.shape[1] == 154


def test_a_cut_prompt_is_logged_and_returned(encoder, identity, caplog):
    conditioning = encoder.encode(["red blue green " * 30 + "unicorn"], identity[0])
    assert conditioning.prompts[0].cut.endswith("unicorn")
    assert "unicorn" in caplog.text
    assert "90" not in conditioning.prompts[0].cut
    assert "91 tokens" in caplog.text


def test_the_face_tower_runs_once_per_face_and_not_at_all_for_a_cached_identity(encoder, faces):
    calls = []
    hook = encoder.face_clip_l.face_encoder.register_forward_hook(lambda *_: calls.append(1))
    try:
        identity = encoder.encode_faces(faces)
        assert len(calls) == 1  # both branches share the tower
        encoder.blank_face()
        calls.clear()
        encoder.encode(["a cat", "a dog", "a horse"], identity)
        encoder.encode(["a negative prompt"])
        encoder.encode(["a cat"], identity[0], strength=0.5)
        assert calls == []
    finally:
        hook.remove()


def test_new_weights_make_a_new_blank_face(encoder):
    other = FaceCLIPEncoder(FaceCLIPConfig.preset("mini")).eval()
    other.load_state_dict(encoder.state_dict())
    before = other.blank_face().patch_tokens.clone()
    other.load_state_dict(FaceCLIPEncoder(FaceCLIPConfig.preset("mini")).state_dict())
    assert not torch.equal(other.blank_face().patch_tokens, before)


def test_an_identity_of_another_encoder_is_refused(encoder, identity):
    other = FaceCLIPEncoder(FaceCLIPConfig.preset("mini")).eval()
    with pytest.raises(ValueError, match="made by another encoder"):
        other.encode(["a cat"], identity)


@pytest.mark.parametrize(
    ("faces", "message"),
    [
        (torch.rand(1, 3, 224, 224), r"shape \[B, 3, 448, 448\]; found \[1, 3, 224, 224\]"),
        (torch.rand(1, 448, 448, 3), r"found \[1, 448, 448, 3\]"),
        (torch.rand(0, 3, 448, 448), "batch is empty"),
        (torch.rand(1, 3, 448, 448) * 255, r"RGB in \[0, 1\]"),
        (torch.zeros(1, 3, 448, 448, dtype=torch.uint8), "uint8"),
    ],
)
def test_bad_crops_are_refused_with_what_was_found(encoder, faces, message):
    with pytest.raises(ValueError, match=message):
        encoder.encode_faces(faces)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_precision_runs_on_cpu_natively(encoder, faces, dtype):
    low = FaceCLIPEncoder(encoder.config).eval()
    low.load_state_dict(encoder.state_dict())
    low = low.to(dtype)
    low.compute_dtype = dtype
    result = low.encode(["a cat"], low.encode_faces(faces)).embeddings
    assert result.dtype == dtype
    reference = encoder.encode(["a cat"], encoder.encode_faces(faces)).embeddings
    assert (result.float() - reference).norm() / reference.norm() < {
        torch.float32: 1e-6,
        torch.float16: 5e-3,
        torch.bfloat16: 3e-2,
    }[dtype]


def test_one_branch_alone_encodes(faces):
    encoder = FaceCLIPEncoder(FaceCLIPConfig.preset("mini").only("l")).eval()
    conditioning = encoder.encode(["a cat"], encoder.encode_faces(faces))
    assert conditioning.embeddings.shape == (3, 77, 32)
    assert conditioning.pooled.shape == (3, 32)
