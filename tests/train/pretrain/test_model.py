"""The training heads: two linear maps of the whole joint representation."""

from __future__ import annotations

import pytest
import torch

from train.pretrain.model import ProjectionHeads


def test_heads_project_the_flattened_joint_representation() -> None:
    heads = ProjectionHeads(width=8, context=77, dim_text=6, dim_identity=5)
    fused = torch.randn(3, 77, 8)
    text_like, identity_like = heads(fused)
    torch.testing.assert_close(text_like, fused.reshape(3, 77 * 8) @ heads.text.weight.T + heads.text.bias)
    torch.testing.assert_close(identity_like, fused.reshape(3, 77 * 8) @ heads.identity.weight.T + heads.identity.bias)


def test_every_token_reaches_both_projections() -> None:
    fused = torch.randn(2, 77, 8, requires_grad=True)
    for projection in ProjectionHeads(8, 77, 6, 5)(fused):
        (gradient,) = torch.autograd.grad(projection.square().sum(), fused, retain_graph=True)
        assert (gradient.norm(dim=-1) > 0).all()


def test_their_file_has_these_names_and_shapes() -> None:
    with torch.device("meta"):
        heads = ProjectionHeads(768, 77, 768, 512)
    assert {name: tuple(tensor.shape) for name, tensor in heads.state_dict().items()} == {
        "text.weight": (768, 59136),
        "text.bias": (768,),
        "identity.weight": (512, 59136),
        "identity.bias": (512,),
    }


@pytest.mark.parametrize("shape", [(2, 77, 9), (2, 76, 8), (2, 77 * 8)])
def test_another_encoders_representation_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"\[B, 77, 8\]; found \[{', '.join(map(str, shape))}\]"):
        ProjectionHeads(8, 77, 6, 5)(torch.zeros(shape))
