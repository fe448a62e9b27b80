"""The face tower: ArcFace's ViT-L on an aligned crop (paper, section 3.1; InsightFace's `vit_l_dp005_mask_005`).

B batch, P = 144 face patches (12 x 12), w = tower width (768).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..config import FaceTowerConfig
from ..ops import FrozenBatchNorm, cast, normal


class FaceTower(nn.Module):
    """Aligned crops -> (class token, patch tokens).

    Frozen in training; `mask_token` is ArcFace's own, kept for its file.

    Without `class_head` it is a tower for patch tokens alone, and its class token has width 0.
    """

    def __init__(self, config: FaceTowerConfig, operations=nn, class_head: bool = True):
        super().__init__()
        patches = config.grid**2
        self.image = config.image
        self.patch_embed = _PatchEmbedding(config, operations)
        self.pos_embed = normal(1, patches, config.width, std=0.02)
        if class_head:
            self.mask_token = normal(1, 1, config.width, std=0.02)
        self.blocks = nn.ModuleList(_Block(config, operations) for _ in range(config.layers))
        self.norm = operations.LayerNorm(config.width)
        self.feature = (
            nn.Sequential(
                operations.Linear(patches * config.width, config.width, bias=False),
                FrozenBatchNorm(config.width),
                operations.Linear(config.width, config.classes, bias=False),
                FrozenBatchNorm(config.classes),
            )
            if class_head
            else None
        )

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        """`faces` [B, 3, 448, 448], RGB in [0, 1], aligned -> class token [B, 512], patch tokens [B, P, w]."""
        # The release resizes without antialiasing and feeds [0, 1] as it is; both are part of what the weights know.
        x = F.interpolate(faces, size=(self.image, self.image), mode="bilinear", align_corners=False)
        x = self.patch_embed(x)
        x = x + cast(self.pos_embed, x)
        for block in self.blocks:
            x = block(x)
        patch_tokens = self.norm(x)
        class_token = patch_tokens.new_empty(len(faces), 0) if self.feature is None else self.feature(patch_tokens.flatten(1))
        return class_token, patch_tokens


class _PatchEmbedding(nn.Module):
    def __init__(self, config: FaceTowerConfig, operations):
        super().__init__()
        self.proj = operations.Conv2d(3, config.width, kernel_size=config.patch, stride=config.patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)  # [B, P, w]


class _Block(nn.Module):
    def __init__(self, config: FaceTowerConfig, operations):
        super().__init__()
        self.norm1 = operations.LayerNorm(config.width)
        self.attn = _Attention(config, operations)
        self.norm2 = operations.LayerNorm(config.width)
        self.mlp = _FeedForward(config.width, operations)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _Attention(nn.Module):
    def __init__(self, config: FaceTowerConfig, operations):
        super().__init__()
        self.heads = config.heads
        self.qkv = operations.Linear(config.width, 3 * config.width, bias=False)
        self.proj = operations.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [B, heads, P, c]
        x = F.scaled_dot_product_attention(query, key, value)
        return self.proj(x.transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    def __init__(self, width: int, operations):
        super().__init__()
        self.fc1 = operations.Linear(width, 4 * width)
        self.fc2 = operations.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu6(self.fc1(x)))
