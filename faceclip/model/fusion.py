"""The fusion module: text and face streams that attend to each other (paper, section 3.2, Fig. 1c).

B batch, T text tokens (CLIP: 77, T5: 512), P = 144 face patches (12 x 12), d = width of both streams (L: 768,
bigG: 1280, T5-XXL: 4096). There are no masks: padding tokens take part.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import FusionConfig
from ..ops import cast
from .text_tower import SelfAttention, split_heads


class Fuser(nn.Module):
    """Holds the fusion blocks.

    e is the text stream, so what the last block would do to the face nobody reads; nor is `enc_output*` ever
    used. With `unused_weights` the module has all of these all the same, as the released file of FaceCLIP-SDXL
    does.
    """

    def __init__(self, width: int, grid: int, config: FusionConfig, operations=nn, unused_weights: bool = True):
        super().__init__()
        self.encoder = _FusionEncoder(width, grid, config, operations, unused_weights)
        if unused_weights:
            self.enc_output = operations.Linear(width, width)
            self.enc_output_norm = operations.LayerNorm(width)

    @property
    def layers(self) -> list[nn.Module]:
        """The layers that run; the last block's face layer is none of them."""
        encoder = self.encoder
        return [*encoder.fusion_layers, *encoder.text_layers, *encoder.layers[: len(encoder.text_layers) - 1]]

    def forward(self, text: Tensor, text_positions: Tensor, face: Tensor, face_positions: Tensor | None) -> Tensor:
        """Text [B, T, d] and face [B, P, d] streams with their positions ([T,
        d], [P, d]) -> joint representation e [B, T, d].

        `face_positions` is None for a fusion module that has none (FaceT5's).
        """
        return self.encoder(text, text_positions, face, face_positions)


class _FusionEncoder(nn.Module):
    def __init__(self, width: int, grid: int, config: FusionConfig, operations, unused_weights: bool):
        super().__init__()
        last = config.layers - 1
        self.layers = nn.ModuleList(FaceLayer(width, grid, config, operations) for _ in range(last + unused_weights))
        self.text_layers = nn.ModuleList(TextLayer(width, config, operations) for _ in range(config.layers))
        self.fusion_layers = nn.ModuleList(
            DualCrossAttention(width, config, operations, to_face=unused_weights or i < last) for i in range(config.layers)
        )

    def forward(self, text: Tensor, text_positions: Tensor, face: Tensor, face_positions: Tensor | None) -> Tensor:
        last = len(self.text_layers) - 1
        for i, (cross, text_layer) in enumerate(zip(self.fusion_layers, self.text_layers, strict=True)):
            face, text = cross(face, text, face_is_needed=i < last)
            text = text_layer(text, text_positions)
            if i < last:
                face = self.layers[i](face, face_positions)
        return text


class DualCrossAttention(nn.Module):
    """Text attends to face and face to text through one logit matrix per head.

    Residuals add to the *normalised* streams.
    """

    def __init__(self, width: int, config: FusionConfig, operations, to_face: bool = True):
        super().__init__()
        self.layer_norm_v = operations.LayerNorm(width)
        self.layer_norm_l = operations.LayerNorm(width)
        self.attn = _CrossProjections(width, config, operations, to_face)
        if to_face:
            self.gamma_v = nn.Parameter(torch.full((width,), 1e-4))
        self.gamma_l = nn.Parameter(torch.full((width,), 1e-4))

    def forward(self, face: Tensor, text: Tensor, face_is_needed: bool = True) -> tuple[Tensor, Tensor]:
        face, text = self.layer_norm_v(face), self.layer_norm_l(text)
        to_face, to_text = self.attn(face, text, face_is_needed)
        text = text + cast(self.gamma_l, text) * to_text
        return (face if to_face is None else face + cast(self.gamma_v, face) * to_face), text


class _CrossProjections(nn.Module):
    def __init__(self, width: int, config: FusionConfig, operations, to_face: bool):
        super().__init__()
        inner = config.cross_width
        self.heads = config.cross_heads
        self.dropout = config.dropout
        self.v_proj = operations.Linear(width, inner)
        self.l_proj = operations.Linear(width, inner)
        self.values_v_proj = operations.Linear(width, inner)
        if to_face:
            self.values_l_proj = operations.Linear(width, inner)
            self.out_v_proj = operations.Linear(inner, width)
        self.out_l_proj = operations.Linear(inner, width)

    def forward(self, face: Tensor, text: Tensor, face_is_needed: bool) -> tuple[Tensor | None, Tensor]:
        face_side, text_side = split_heads(self.v_proj(face), self.heads), split_heads(self.l_proj(text), self.heads)
        to_text = self.out_l_proj(self._attend(text_side, face_side, self.values_v_proj(face)))
        if not face_is_needed:
            return None, to_text
        return self.out_v_proj(self._attend(face_side, text_side, self.values_l_proj(text))), to_text

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(query, key, split_heads(value, self.heads), dropout_p=dropout)
        return x.transpose(1, 2).flatten(2)


class _PostNormLayer(nn.Module):
    """What text and face layers share: attention, LayerNorm, ReLU feed-forward, LayerNorm, each after its residual."""

    def __init__(self, self_attention: nn.Module, width: int, feedforward: int, dropout: float, operations):
        super().__init__()
        self.self_attn = self_attention
        self.norm1 = operations.LayerNorm(width)
        self.linear1 = operations.Linear(width, feedforward)
        self.linear2 = operations.Linear(feedforward, width)
        self.norm2 = operations.LayerNorm(width)
        self.dropout = dropout

    def forward(self, x: Tensor, positions: Tensor | None) -> Tensor:
        query = x if positions is None else x + positions
        x = self.norm1(x + self._drop(self.self_attn(query, x)))
        return self.norm2(x + self._drop(self.linear2(self._drop(F.relu(self.linear1(x))))))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class TextLayer(_PostNormLayer):
    """Self-attention of the text stream: queries and keys see positions, values do not."""

    def __init__(self, width: int, config: FusionConfig, operations):
        attention = SelfAttention(width, config.text_heads, operations, config.dropout)
        super().__init__(attention, width, config.text_feedforward, config.dropout, operations)


class FaceLayer(_PostNormLayer):
    """The face stream by itself: deformable self-attention in FaceCLIP's release, each patch alone in FaceT5's
    (`OwnValue`), plain self-attention in the paper's figure. No dropout."""

    def __init__(self, width: int, grid: int, config: FusionConfig, operations):
        if config.face_attention == "deformable":
            attention = DeformableAttention(width, grid, config, operations)
        elif config.face_attention == "own value":
            attention = OwnValue(width, operations)
        else:
            attention = SelfAttention(width, config.face_heads, operations)
        super().__init__(attention, width, config.face_feedforward, 0.0, operations)


class OwnValue(nn.Module):
    """Attention whose only key is the token itself, so that its softmax is 1: what FaceT5's face layers come to.

    The release hands its attention layer [B, P, d] where [P, B, d] is wanted: a patch attends to the same patch
    of the other images of the batch, which mixes people. With one image, as the release's script runs it, only
    the value projection is left, and this is that, per image, for any batch.
    """

    def __init__(self, width: int, operations):
        super().__init__()
        self.value_proj = operations.Linear(width, width)
        self.out_proj = operations.Linear(width, width)

    def forward(self, query: Tensor, value: Tensor) -> Tensor:
        """[B, P, d], which has no effect, and [B, P, d] -> [B, P, d]."""
        return self.out_proj(self.value_proj(value))


class DeformableAttention(nn.Module):
    """Each patch reads, per head, a few points of the 12 x 12 grid at
    offsets it predicts (Deformable DETR, one level)."""

    def __init__(self, width: int, grid: int, config: FusionConfig, operations):
        super().__init__()
        self.grid = grid
        self.heads = config.face_heads
        self.points = config.face_points
        self.sampling_offsets = operations.Linear(width, self.heads * self.points * 2)
        self.attention_weights = operations.Linear(width, self.heads * self.points)
        self.value_proj = operations.Linear(width, width)
        self.output_proj = operations.Linear(width, width)
        self._point_outward()

    def forward(self, query: Tensor, value: Tensor) -> Tensor:
        """`query` (face + positions) and `value` (face) [B, P, d] -> [B, P, d]."""
        batch, patches, width = value.shape
        shape = (batch, patches, self.heads, self.points)
        # Locations and sampling stay in fp32: bf16 resolves a 12-patch grid to 1/32 patch only.
        offsets = self.sampling_offsets(query).float().view(*shape, 2)
        weights = self.attention_weights(query).float().view(shape).softmax(-1)
        locations = self._centres(value.device)[:, None, None] + offsets / self.grid  # in [0, 1] of the grid, (x, y)
        image = self.value_proj(value).float().transpose(1, 2).reshape(batch * self.heads, -1, self.grid, self.grid)
        where = (2 * locations - 1).transpose(1, 2).flatten(0, 1)  # [B * heads, P, points, 2]
        sampled = F.grid_sample(image, where, mode="bilinear", padding_mode="zeros", align_corners=False)
        attended = (sampled * weights.transpose(1, 2).flatten(0, 1).unsqueeze(1)).sum(-1)  # [B * heads, c, P]
        return self.output_proj(attended.view(batch, width, patches).transpose(1, 2).to(value.dtype))

    def _centres(self, device: torch.device) -> Tensor:
        """Patch centres [P, (x, y)] in [0, 1], row by row."""
        steps = (torch.arange(self.grid, device=device, dtype=torch.float32) + 0.5) / self.grid
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        return torch.stack([x.flatten(), y.flatten()], dim=-1)

    @torch.no_grad()
    def _point_outward(self) -> None:
        """Initialise as Deformable DETR does: head h looks in its own direction, point p at p + 1 patches."""
        if self.sampling_offsets.weight.is_meta:
            return
        angles = torch.arange(self.heads, dtype=torch.float32) * (2 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)
        reach = torch.arange(1, self.points + 1, dtype=torch.float32)
        self.sampling_offsets.weight.zero_()
        self.sampling_offsets.bias.copy_((directions[:, None] * reach[:, None]).flatten())
        self.attention_weights.weight.zero_()
        self.attention_weights.bias.zero_()
