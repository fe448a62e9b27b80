"""The projections of the joint representation that only training needs (paper, section 3.2: e->t and e->r)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import Linear


class ProjectionHeads(nn.Module):
    """Two linear maps of the whole, flattened joint representation. They are in no encoder checkpoint.

    `width` d and `context` T are the joint representation's, `dim_text` the CLIP embedding's, `dim_identity` the class token's.
    """

    def __init__(self, width: int, context: int, dim_text: int, dim_identity: int):
        super().__init__()
        self.width, self.context = width, context
        self.text = Linear(context * width, dim_text)
        self.identity = Linear(context * width, dim_identity)

    def forward(self, fused: Tensor) -> tuple[Tensor, Tensor]:
        """Joint representation e [B, T, d] -> e->t [B, dim_text], e->r [B, dim_identity], neither normalised.

        Raises ValueError for another T or d.
        """
        if fused.ndim != 3 or fused.shape[1:] != (self.context, self.width):
            raise ValueError(
                f"The training heads read a joint representation of shape [B, {self.context}, {self.width}]; found "
                f"{list(fused.shape)}. They belong to an encoder of another size."
            )
        flat = fused.flatten(1)
        return self.text(flat), self.identity(flat)
