"""FaceCLIP's loss: its three terms, who is whose negative, scales, switches, bad input."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from train.pretrain.contrastive import GatheredKeys
from train.pretrain.losses import FaceCLIPLoss, FaceCLIPLossConfig, SentTargets, Targets, caption_labels

KINDS = ["infonce", "siglip"]


def targets(count: int = 8, dt: int = 6, di: int = 5, **changes: Any) -> Targets:
    generator = torch.Generator().manual_seed(1)
    fields: dict[str, Any] = {
        "image": torch.randn(count, dt, generator=generator),
        "identity": torch.randn(count, di, generator=generator),
        "text": torch.randn(count, dt, generator=generator),
        "has_face": torch.arange(count) % 4 != 3,
        "identity_label": torch.full((count,), -1),
        "caption_label": torch.arange(count),
    }
    return Targets(**(fields | changes))


def projections(count: int = 8, dt: int = 6, di: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, dt, generator=generator), torch.randn(count, di, generator=generator)


def test_the_three_terms_are_equation_3() -> None:
    text_like, identity_like = projections()
    world = targets()
    parts = FaceCLIPLoss()(text_like, identity_like, world)

    def clip_loss(queries: Tensor, keys: Tensor) -> Tensor:
        logits = F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).T / 0.07
        rows = torch.arange(len(logits))
        return (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, rows)) / 2

    assert world.image is not None and world.identity is not None and world.text is not None
    faces = world.has_face
    torch.testing.assert_close(parts.image, clip_loss(text_like, world.image))
    torch.testing.assert_close(parts.text, clip_loss(text_like, world.text))
    torch.testing.assert_close(parts.identity, clip_loss(identity_like[faces], world.identity[faces]))
    torch.testing.assert_close(parts.total, sum(parts[1:], torch.tensor(0.0)))


def test_guided_rows_get_no_gradient_from_the_identity_term() -> None:
    text_like, identity_like = projections()
    identity_like.requires_grad_()
    FaceCLIPLoss()(text_like, identity_like, targets()).total.backward()
    assert identity_like.grad is not None
    assert (identity_like.grad.norm(dim=1) > 0).equal(targets().has_face)


def test_equal_people_and_captions_are_negatives_in_no_term_that_they_fix() -> None:
    text_like, identity_like = projections()
    alone = FaceCLIPLoss()(text_like, identity_like, targets())
    people = FaceCLIPLoss()(text_like, identity_like, targets(identity_label=torch.tensor([4, 4, 5, -1, 5, 4, 6, -1])))
    assert people.identity < alone.identity  # pyright: ignore[reportOptionalOperand]
    assert people.text == alone.text and people.image == alone.image  # captions still tell the pictures apart
    captions = FaceCLIPLoss()(text_like, identity_like, targets(caption_label=torch.tensor([0, 0, 2, 3, 4, 5, 6, 3])))
    assert captions.text < alone.text and captions.identity == alone.identity  # pyright: ignore[reportOptionalOperand]
    # Rows 3 and 7 are guided and share a caption: nothing tells them apart. Rows 0 and 1 have unknown, so different, people.
    assert captions.image < alone.image  # pyright: ignore[reportOptionalOperand]
    unknown = FaceCLIPLoss()(text_like, identity_like, targets(caption_label=torch.tensor([0, 0, 2, 3, 4, 5, 6, 7])))
    assert unknown.image == alone.image
    both: dict[str, Any] = {
        "caption_label": torch.tensor([0, 0, 2, 3, 4, 5, 6, 7]),
        "identity_label": torch.tensor([9, 9, 1, -1, 2, 3, 4, -1]),
    }
    assert FaceCLIPLoss()(text_like, identity_like, targets(**both)).image < alone.image  # pyright: ignore[reportOptionalOperand]


@pytest.mark.parametrize("person", [0, 5, 2**63 - 2])
def test_a_guided_row_is_a_negative_of_any_person_with_its_caption(person: int) -> None:
    text_like, identity_like = projections()
    labels = torch.tensor([person, 20, 21, -1, 22, 23, 24, -1])
    apart = FaceCLIPLoss()(text_like, identity_like, targets(identity_label=labels))
    same_caption = targets(identity_label=labels, caption_label=torch.tensor([3, 1, 2, 3, 4, 5, 6, 7]))  # rows 0 and 3
    assert FaceCLIPLoss()(text_like, identity_like, same_caption).image == apart.image


@pytest.mark.parametrize("kind", KINDS)
def test_terms_are_switched_off_and_own_a_scale_each(kind: Any) -> None:
    loss = FaceCLIPLoss(FaceCLIPLossConfig(text=False, kind=kind))
    parts = loss(*projections(), targets(text=None))
    assert parts.text is None and parts.image is not None and parts.identity is not None
    torch.testing.assert_close(parts.total, parts.image + parts.identity)
    names = {"log_scale.image", "log_scale.identity"}
    assert set(loss.state_dict()) == (names | {"bias.image", "bias.identity"} if kind == "siglip" else names)


def test_scales_start_at_the_releases_and_stay_below_100() -> None:
    loss = FaceCLIPLoss()
    assert all(math.isclose(p.item(), math.log(1 / 0.07), rel_tol=1e-6) for p in loss.parameters())
    with torch.no_grad():
        loss.log_scale["image"].fill_(9.0)
    loss(*projections(), targets()).total.backward()
    assert math.isclose(loss.log_scale["image"].item(), math.log(100), rel_tol=1e-6)
    assert loss.log_scale["image"].grad  # it can come back


def kept_bytes(loss: FaceCLIPLoss, text_like: Tensor, identity_like: Tensor, targets: Targets | SentTargets) -> int:
    """Bytes that wait for the backward pass, each memory counted once; the projections themselves are the encoder's."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        parts = loss(text_like, identity_like, targets)
    parts.total.backward()
    return sum(storages.values())


def test_what_waits_for_the_backward_pass_is_one_copy_of_each_thing() -> None:
    """One of 8 ranks, with 16 rows of 128 in all: bf16 projections and targets, as in training."""
    own, everybody, dt, di = 16, 128, 24, 20
    generator = torch.Generator().manual_seed(0)

    def sent(width: int) -> GatheredKeys:
        keys = F.normalize(torch.randn(everybody, width, generator=generator), dim=-1).bfloat16()
        return GatheredKeys(own, keys, torch.arange(everybody), (), None)

    projections = [torch.randn(own, width, generator=generator).bfloat16().requires_grad_() for width in (dt, di)]
    keys = SentTargets({"image": sent(dt), "identity": sent(di), "text": sent(dt)})
    found = kept_bytes(FaceCLIPLoss(FaceCLIPLossConfig(chunk=4)), *projections, keys)
    expected = everybody * (dt + di + dt) * 2  # keys, bf16
    expected += own * (dt + di + 2) * 4  # both normalised projections and their lengths, fp32
    expected += 3 * (everybody * 8 + everybody * 4 + own * 4)  # labels, log-sum-exps of columns and of rows
    assert expected <= found <= expected + 3 * 64  # scalars


@pytest.mark.parametrize("kind", KINDS)
def test_targets_sent_early_change_no_bit(kind: Any) -> None:
    loss = FaceCLIPLoss(FaceCLIPLossConfig(kind=kind))
    results = []
    for send in (lambda targets: targets, loss.start):
        features = [x.requires_grad_() for x in projections()]
        parts = loss(*features, send(targets(identity_label=torch.tensor([4, 4, 5, -1, 5, 4, 6, -1]))))
        results.append([parts.total, *torch.autograd.grad(parts.total, [*features, *loss.parameters()])])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_projections_of_any_length_have_the_gradient_of_normalised_ones() -> None:
    text_like, identity_like = (x.double() * 37 for x in projections())
    text_like[2] = 0  # no direction: no gradient that is not finite
    world = targets(**{name: getattr(targets(), name).double() for name in ("image", "identity", "text")})
    ours, torchs = (x.clone().requires_grad_() for x in (text_like, text_like))
    loss = FaceCLIPLoss()
    (found,) = torch.autograd.grad(loss(ours, identity_like, world).total, ours)
    (expected,) = torch.autograd.grad(loss(F.normalize(torchs, dim=-1), identity_like, world).total, torchs)
    assert found.isfinite().all()
    others = torch.arange(len(found)) != 2
    torch.testing.assert_close(found[others], expected[others], rtol=1e-10, atol=1e-12)


def test_caption_labels_are_equal_for_equal_captions_everywhere() -> None:
    labels = caption_labels(["a man", "a woman", "a man", ""])
    assert labels.dtype == torch.int64 and (labels >= 0).all()
    assert labels[0] == labels[2] and len(set(labels.tolist())) == 3
    assert labels[0].item() == 2100935362455490293  # the same in every process, unlike Python's hash()


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="switch on at least one"):
        FaceCLIPLossConfig(image=False, identity=False, text=False)
    with pytest.raises(ValueError, match="no loss called 'softmax'"):
        FaceCLIPLossConfig(kind="softmax")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="no text target"):
        FaceCLIPLoss()(*projections(), targets(text=None))
