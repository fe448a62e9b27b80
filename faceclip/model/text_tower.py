"""The text tower: CLIP's causal transformer with OpenCLIP's parameter names (paper, section 3.1).

B batch, T = 77 tokens, d = tower width (L: 768, bigG: 1280).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Activation, TextTowerConfig
from ..ops import cast, normal
from .int8 import Int8Linear

END_OF_TEXT = 49407


class TextTower(nn.Module):
    """Token embeddings -> hidden states of all tokens, after the last LayerNorm and before the projection."""

    def __init__(self, config: TextTowerConfig, operations=nn):
        super().__init__()
        self.token_embedding = operations.Embedding(config.vocabulary, config.width)
        self.positional_embedding = normal(config.context, config.width, std=0.01)
        self.transformer = _Transformer(config, operations)
        self.ln_final = operations.LayerNorm(config.width)
        self.text_projection = normal(config.width, config.width, std=config.width**-0.5)

    def encode_tokens(self, embeddings: Tensor) -> Tensor:
        """`embeddings` [B, T, d] (token embeddings, the identity token in place) -> hidden [B, T, d]."""
        x = embeddings + cast(self.positional_embedding, embeddings)
        return self.ln_final(self.transformer(x))

    @staticmethod
    def pool(hidden: Tensor, input_ids: Tensor) -> Tensor:
        """`hidden` [B, T, d] at the first end-of-text token of `input_ids` [B, T] -> [B, d]."""
        end = (input_ids == END_OF_TEXT).int().argmax(dim=1)
        return hidden[torch.arange(len(hidden), device=hidden.device), end]


class _Transformer(nn.Module):
    def __init__(self, config: TextTowerConfig, operations):
        super().__init__()
        self.resblocks = nn.ModuleList(_Block(config, operations) for _ in range(config.layers))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x)
        return x


class _Block(nn.Module):
    def __init__(self, config: TextTowerConfig, operations):
        super().__init__()
        self.ln_1 = operations.LayerNorm(config.width)
        self.attn = SelfAttention(config.width, config.heads, operations)
        self.ln_2 = operations.LayerNorm(config.width)
        self.mlp = _FeedForward(config.width, config.activation, operations)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, causal=True)
        return x + self.mlp(self.ln_2(x))


class SelfAttention(nn.Module):
    """Multi-head attention with torch's packed parameter names (`in_proj_weight` [3d, d]).

    Queries and keys come from one input, values from another: FaceCLIP's
    fusion adds positions to the former only.
    """

    def __init__(self, width: int, heads: int, operations, dropout: float = 0.0):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.in_proj_weight = normal(3 * width, width, std=width**-0.5)
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = operations.Linear(width, width)
        self.int8_in_proj: Int8Linear | None = None

    def forward(self, query_key_input: Tensor, value_input: Tensor, causal: bool = False) -> Tensor:
        """[B, N, d] and [B, N, d] -> [B, N, d]."""
        if query_key_input is value_input:
            query, key, value = self._project(value_input, slice(None)).chunk(3, dim=-1)
        else:
            split = 2 * value_input.shape[-1]
            query, key = self._project(query_key_input, slice(split)).chunk(2, dim=-1)
            value = self._project(value_input, slice(split, None))
        query, key, value = (split_heads(x, self.heads) for x in (query, key, value))
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=causal)
        return self.out_proj(x.transpose(1, 2).flatten(2))

    def to_int8(self) -> None:
        """Keep the packed projection in int8; `out_proj` is a linear layer as others are."""
        self.int8_in_proj = Int8Linear(self.in_proj_weight, self.in_proj_bias)
        del self.in_proj_weight, self.in_proj_bias

    def _project(self, x: Tensor, rows: slice) -> Tensor:
        """Some rows of the packed projection: queries, keys, values in this order."""
        if self.int8_in_proj is not None:
            return self.int8_in_proj(x, rows)
        return F.linear(x, cast(self.in_proj_weight[rows], x), cast(self.in_proj_bias[rows], x))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, N, heads * c] -> [B, heads, N, c]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class _FeedForward(nn.Module):
    def __init__(self, width: int, activation: Activation, operations):
        super().__init__()
        self.activation = activation
        self.c_fc = operations.Linear(width, 4 * width)
        self.c_proj = operations.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)
        x = x * torch.sigmoid(1.702 * x) if self.activation == "quick_gelu" else F.gelu(x)
        return self.c_proj(x)
