"""One FaceCLIP branch (paper, section 3.2): H(c_t, c_r), the joint representation of a prompt and a face.

B batch, T = 77 text tokens, P = 144 face patches, d = branch width (L: 768, bigG: 1280).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import BranchConfig
from ..ops import cast
from ..prompt import IDENTITY_SEARCH, IDENTITY_TOKEN
from .face_tower import FaceTower
from .fusion import Fuser
from .text_tower import TextTower


class BranchOutput(NamedTuple):
    """What a branch computes for B prompts."""

    fused: Tensor  # joint representation e [B, T, d]
    pooled: Tensor  # [B, d], before the text projection
    text_feature: Tensor  # [B, d], pooled @ text_projection; training's text target


class FaceCLIPBranch(TextTower):
    """A CLIP text tower that also sees a face. Computes in the dtype of the patch tokens it is given."""

    def __init__(self, config: BranchConfig, face_encoder: FaceTower, operations=nn):
        super().__init__(config.text, operations)
        width, face_width = config.width, config.face.width
        self.face_encoder = face_encoder
        self.proj1 = operations.Linear(config.face.classes, width)
        self.face_patch_proj = operations.Linear(face_width, width)
        self.face_pos_proj = operations.Linear(face_width, width)
        self.text_embed_proj = operations.Linear(width, width)
        self.text_pos_proj = operations.Linear(width, width)
        self.fuser = Fuser(width, config.face.grid, config.fusion, operations)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.logit_bias = nn.Parameter(torch.tensor(-10.0))

    @property
    def layers(self) -> list[nn.Module]:
        """The layers of text tower and fusion that every prompt goes through."""
        return [*self.transformer.resblocks, *self.fuser.layers]

    def forward(self, input_ids: Tensor, class_token: Tensor, patch_tokens: Tensor, present: Tensor) -> BranchOutput:
        """`input_ids` [B, T] int64, `class_token` [B, 512], `patch_tokens` [B,
        P, w], `present` [B] bool: has the row a face?"""
        hidden = self.encode_tokens(self._embed(input_ids, class_token.to(patch_tokens.dtype), present))
        pooled = self.pool(hidden, input_ids)
        fused = self.fuser(
            self.text_embed_proj(hidden),
            self.text_pos_proj(cast(self.positional_embedding, hidden)),
            self.face_patch_proj(patch_tokens),
            self.face_pos_proj(cast(self.face_encoder.pos_embed, hidden)[0]),
        )
        return BranchOutput(fused, pooled, pooled @ cast(self.text_projection, pooled))

    def _embed(self, input_ids: Tensor, class_token: Tensor, present: Tensor) -> Tensor:
        """Token embeddings [B, T, d]; where a face is present, its projection stands in for the identity token."""
        embeddings = self.token_embedding(input_ids).to(class_token.dtype)
        identity = self.proj1(F.normalize(class_token, dim=-1)).unsqueeze(1)
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        stands_for_face = (input_ids == IDENTITY_TOKEN) & (positions < IDENTITY_SEARCH) & present[:, None]
        return torch.where(stands_for_face.unsqueeze(-1), identity, embeddings)
