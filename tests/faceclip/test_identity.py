"""Identities: batches of people, blending, saving, and never another encoder's face."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from faceclip import Identity
from faceclip.tensor_file import CheckpointError


def people(count: int, seed: int = 0, present: bool = True, tower: float = 1.0) -> Identity:
    generator = torch.Generator().manual_seed(seed)
    return Identity(
        class_token=torch.randn(count, 1, 16, generator=generator),
        patch_tokens=torch.randn(count, 1, 144, 8, generator=generator),
        present=torch.full((count,), present),
        signature=tower * torch.linspace(1, 2, 64).unsqueeze(0),
    )


def same(first: Identity, second: Identity) -> bool:
    return torch.equal(first.class_token, second.class_token) and torch.equal(first.patch_tokens, second.patch_tokens)


def test_slicing_keeps_a_batch():
    identity = people(3)
    assert len(identity[1]) == 1
    assert same(identity[-1], identity[2:3])
    assert len(identity[:2]) == 2
    with pytest.raises(IndexError, match="3 people; there is no number 3"):
        identity[3]


def test_cat_puts_people_in_order_and_refuses_other_encoders():
    first, second = people(1, 1), people(2, 2)
    both = Identity.cat([first, second])
    assert same(both[0], first)
    assert same(both[1:], second)
    with pytest.raises(ValueError, match="made by another encoder"):
        Identity.cat([first, people(1, tower=2.0)])
    with pytest.raises(ValueError, match="no identity"):
        Identity.cat([])


def test_blend_runs_from_the_first_to_the_second():
    first, second = people(1, 1), people(1, 2)
    assert same(Identity.blend(first, second, 0), first)
    assert same(Identity.blend(first, second, 1), second)
    half = Identity.blend(first, second, 0.5)
    torch.testing.assert_close(half.patch_tokens, (first.patch_tokens + second.patch_tokens) / 2)
    similarity = torch.nn.functional.cosine_similarity
    to_first, to_second = (similarity(half.class_token, side.class_token, dim=-1) for side in (first, second))
    torch.testing.assert_close(to_first, to_second)
    assert half.class_token.norm() == pytest.approx((first.class_token.norm() + second.class_token.norm()).item() / 2, rel=1e-5)


def test_blend_broadcasts_one_person_over_many():
    assert len(Identity.blend(people(1, 1), people(3, 2), 0.3)) == 3


@pytest.mark.parametrize(
    ("first", "second", "ratio", "message"),
    [
        (people(1), people(1), 1.2, "ratio is 1.2"),
        (people(2), people(3), 0.5, "Cannot blend 2 with 3"),
        (people(1), people(1, present=False), 0.5, "has no face"),
        (people(1), people(1, tower=0.5), 0.5, "made by another encoder"),
    ],
)
def test_blend_refuses_what_makes_no_sense(first, second, ratio, message):
    with pytest.raises(ValueError, match=message):
        Identity.blend(first, second, ratio)


def test_average_of_equal_pictures_is_that_picture():
    one = people(1)
    average = one.expand(3).average()
    assert len(average) == 1
    torch.testing.assert_close(average.class_token, one.class_token)
    torch.testing.assert_close(average.patch_tokens, one.patch_tokens)


def test_average_leaves_out_pictures_without_a_face():
    one = people(1)
    average = Identity.cat([one, people(1, 5, present=False)]).average()
    torch.testing.assert_close(average.patch_tokens, one.patch_tokens)
    assert average.present.tolist() == [True]


def test_save_and_load_are_exact_and_the_file_holds_no_photo(tmp_path):
    identity = people(2)
    identity.save(tmp_path / "ann.safetensors")
    loaded = Identity.load(tmp_path / "ann.safetensors")
    assert same(loaded, identity)
    assert torch.equal(loaded.present, identity.present)
    assert torch.equal(loaded.signature, identity.signature)
    kept = sum(t.numel() * t.element_size() for t in (identity.class_token, identity.patch_tokens, identity.signature)) + 2
    assert (tmp_path / "ann.safetensors").stat().st_size - kept < 1024
    assert [path.name for path in tmp_path.iterdir()] == ["ann.safetensors"]


def test_loading_something_else_says_what_it_is(tmp_path):
    import safetensors.torch

    safetensors.torch.save_file({"lora_te.lora_down.weight": torch.zeros(1)}, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match="not a saved FaceCLIP identity.*LoRA"):
        Identity.load(tmp_path / "lora.safetensors")


def test_loading_a_truncated_file_says_so(tmp_path):
    path = tmp_path / "ann.safetensors"
    people(2).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="incomplete"):
        Identity.load(path)


def test_signatures_survive_a_change_of_precision_and_nothing_more():
    identity = people(1)
    identity.require_tower(identity.signature.bfloat16())
    with pytest.raises(ValueError, match="made by another encoder"):
        identity.require_tower(identity.signature * 1.05)


def test_an_identity_without_a_signature_fits_no_tower_and_is_not_saved(tmp_path):
    unsigned = replace(people(1), signature=None)
    for fits in (lambda: unsigned.require_tower(torch.ones(1, 64)), lambda: unsigned.for_tower(torch.ones(1, 64))):
        with pytest.raises(ValueError, match="made by another encoder"):
            fits()
    with pytest.raises(ValueError, match="does not say which face tower made it"):
        unsigned.save(tmp_path / "ann.safetensors")
    assert not list(tmp_path.iterdir())
