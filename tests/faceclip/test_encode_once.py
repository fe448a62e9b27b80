"""What goes through the encoder, how often, and that nothing but the time depends on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from faceclip import FaceCLIPConfig, FaceCLIPEncoder, Identity


@pytest.fixture
def encoder() -> FaceCLIPEncoder:
    """As `from_file` gives it: frozen."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = FaceCLIPEncoder(FaceCLIPConfig.preset("mini"))
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if name.endswith(("gamma_v", "gamma_l")):
                parameter.fill_(1.0)
    return encoder.eval().requires_grad_(False)


@pytest.fixture
def identity(encoder: FaceCLIPEncoder) -> Identity:
    encoder.blank_face()
    return encoder.encode_faces(torch.rand(2, 3, 448, 448, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def passes(encoder: FaceCLIPEncoder) -> Iterator[list[int]]:
    """Rows of each forward through the encoder, in order."""
    rows: list[int] = []
    handle = encoder.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    yield rows
    handle.remove()


def away(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def test_weighted_words_run_the_empty_prompt_once_for_each_person(encoder, identity, passes):
    first = encoder.encode(["a (cat:1.2)"], identity[0])
    assert passes == [1, 1]  # the prompt, and the empty prompt of somebody new
    passes.clear()
    again = encoder.encode(["a (cat:1.2)"], identity[0])
    encoder.encode(["(studio light:0.8), rain"], identity[0])
    assert passes == [1, 1]  # a pass each
    assert torch.equal(again.embeddings, first.embeddings) and torch.equal(again.pooled, first.pooled)
    passes.clear()
    encoder.encode(["a (cat:1.2)"], identity)
    assert passes == [2, 1]  # only the second person is new
    passes.clear()
    encoder.encode(["a (cat:1.2)"])
    encoder.encode(["a (dog:1.2)"])
    assert passes == [1, 1, 1]  # without a face it is one more


def test_each_person_has_an_empty_prompt_of_their_own(encoder, identity):
    encoder.encode(["a (cat:1.5)"], identity[0])  # fills what is kept
    for person in (identity[1], None):
        plain, empty = (encoder.encode([prompt], person).embeddings for prompt in ("a cat", ""))
        weighted = encoder.encode(["(a cat:1.5)"], person).embeddings
        moved = [(weighted - plain).norm(dim=-1)[0] > 1e-3]
        assert 1 < int(moved[0].sum()) < 5  # the tokens of two words
        assert away(weighted[0, moved[0]], torch.lerp(empty, plain, 1.5)[0, moved[0]]) < 1e-5


def test_a_strength_in_between_takes_one_pass_of_two_rows(encoder, identity, passes):
    half = encoder.encode(["a cat"], identity[0], strength=0.5)
    assert passes == [2]
    full, none = encoder.encode(["a cat"], identity[0]), encoder.encode(["a cat"])
    assert away(half.embeddings, (full.embeddings + none.embeddings) / 2) < 1e-5
    assert away(half.pooled, (full.pooled + none.pooled) / 2) < 1e-5
    encoder.encode(["a (cat:1.2)"], identity[0], strength=0.5)
    passes.clear()
    encoder.encode(["a (cat:1.3)"], identity[0], strength=0.5)
    assert passes == [2]


@pytest.mark.parametrize("prompt", ["a man", "a (man:1.3)", "red blue green " * 30], ids=["plain", "weighted", "long"])
@pytest.mark.parametrize("strength", [0.0, 0.6, 1.0])
def test_positive_and_negative_take_one_pass_and_are_what_each_is_alone(encoder, identity, passes, prompt, strength):
    options = {"strength": strength, "long_prompts": "chunk"}
    alone = encoder.encode([prompt], identity, **options), encoder.encode(["(blurry:1.2)"], long_prompts="chunk")
    passes.clear()
    together = encoder.encode_with_negative([prompt], ["(blurry:1.2)"], identity, **options)
    assert len(passes) == 1
    for found, expected in zip(together, alone, strict=True):
        assert found.embeddings.shape == expected.embeddings.shape and found.pooled.shape == expected.pooled.shape
        assert away(found.embeddings, expected.embeddings) < 1e-5 and away(found.pooled, expected.pooled) < 1e-5
        assert [p.count for p in found.prompts] == [p.count for p in expected.prompts]


def test_positive_and_negative_are_refused_as_each_alone(encoder, identity):
    with pytest.raises(ValueError, match="no prompt"):
        encoder.encode_with_negative(["a man"], [], identity)
    with pytest.raises(ValueError, match="takes a list"):
        encoder.encode_with_negative(["a man"], "blurry", identity)
    with pytest.raises(ValueError, match="strength is nan"):
        encoder.encode_with_negative(["a man"], ["blurry"], identity, strength=float("nan"))


def test_a_prompt_that_is_cut_is_told_once(encoder, identity, caplog):
    encoder.encode(["red blue green " * 30], identity[0], strength=0.5)
    assert len(caplog.records) == 1


def test_new_weights_make_a_new_empty_prompt(encoder, identity):
    other = FaceCLIPEncoder(encoder.config).eval().requires_grad_(False)
    tower = {name: tensor for name, tensor in encoder.state_dict().items() if ".face_encoder." in name}
    other.load_state_dict(tower, strict=False)  # so that the identity fits
    expected = other.encode(["a (cat:2)"], identity[0]).embeddings
    before = encoder.encode(["a (cat:2)"], identity[0]).embeddings
    encoder.load_state_dict(other.state_dict())
    found = encoder.encode(["a (cat:2)"], identity[0]).embeddings
    assert torch.equal(found, expected) and away(before, expected) > 0.1


def test_an_encoder_that_trains_keeps_no_empty_prompt(encoder, identity, passes):
    encoder.requires_grad_(True)
    for _ in range(2):
        encoder.encode(["a (cat:1.2)"], identity[0])
    assert passes == [1, 1, 1, 1]


def test_another_precision_makes_a_new_empty_prompt(encoder, identity, passes):
    encoder.encode(["a (cat:1.2)"], identity[0])
    encoder.to(torch.bfloat16).compute_dtype = torch.bfloat16
    passes.clear()
    result = encoder.encode(["a (cat:1.2)"], identity[0].to(dtype=torch.bfloat16))
    assert passes == [1, 1] and result.embeddings.dtype == torch.bfloat16
