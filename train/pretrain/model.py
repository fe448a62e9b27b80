"""What pretraining trains: the encoder of one branch with its training heads, and which of its weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import Linear

from faceclip import FaceCLIPEncoder, Identity
from faceclip.model.branch import FaceCLIPBranch

from ..data.captions import token_ids


class ProjectionHeads(nn.Module):
    """Two linear maps of the whole, flattened joint representation. They are in no encoder checkpoint.

    `width` d and `context` T are the joint representation's, `dim_text` the
    CLIP embedding's, `dim_identity` the class token's.
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


# The projections around the fusion module (paper, section 3.3). `proj1` acts through the frozen text tower.
_TRAINED = ("face_patch_proj.", "face_pos_proj.", "text_embed_proj.", "text_pos_proj.", "proj1.", "fuser.encoder.")


def freeze(branch: FaceCLIPBranch) -> dict[str, nn.Parameter]:
    """Let only what the paper trains have gradients; return it by name.

    Parameters that the forward pass never reads (the last block's face
    side) stay frozen too: DDP would wait for them.
    """
    last = len(branch.fuser.encoder.fusion_layers) - 1
    cross = f"fuser.encoder.fusion_layers.{last}."
    unread = (f"fuser.encoder.layers.{last}.", *(cross + n for n in ("attn.out_v_proj.", "attn.values_l_proj.", "gamma_v")))
    trained = {}
    for name, parameter in branch.named_parameters():
        parameter.requires_grad_(name.startswith(_TRAINED) and not name.startswith(unread))
        if parameter.requires_grad:
            trained[name] = parameter
    return trained


def blocks_of(branch: FaceCLIPBranch) -> list[nn.Module]:
    """The blocks through which gradients flow: the text tower's (for `proj1`) and the fusion module's."""
    fusion = branch.fuser.encoder
    return [*branch.transformer.resblocks, *fusion.layers, *fusion.text_layers, *fusion.fusion_layers]


class PretrainModel(nn.Module):
    """An encoder of one branch and its training heads: what DDP wraps."""

    def __init__(self, encoder: FaceCLIPEncoder):
        super().__init__()
        (branch,) = encoder.config.branches.values()
        self.encoder = encoder
        self.heads = ProjectionHeads(branch.width, branch.text.context, branch.width, branch.face.classes)

    @property
    def branch(self):
        """The one branch."""
        return next(iter(self.encoder.branches.values()))

    def forward(self, input_ids: Tensor, class_token: Tensor, patch_tokens: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Ids [b, 77], class token [b, 1, 512], patch tokens [b, 1, 144, w], present [b] -> e->t [b, dt], e->r [b, 512]."""
        (output,) = self.encoder(input_ids, Identity(class_token, patch_tokens, present, None)).values()
        return self.heads(output.fused)


@torch.no_grad()
def black_face_texts(model: PretrainModel, texts: Sequence[str], at_once: int = 32) -> Tensor:
    """Texts, `at_once` at a time -> [n, dt]: in CLIP's space, by way of the joint representation with a black face."""
    weight = model.heads.text.weight
    blank = model.encoder.blank_face().to(weight.device, weight.dtype)
    rows = []
    for start in range(0, len(texts), at_once):
        part = texts[start : start + at_once]
        same, none = [0] * len(part), torch.zeros(len(part), dtype=torch.bool, device=weight.device)
        ids = token_ids(part, none.tolist()).to(weight.device)
        rows.append(model(ids, blank.class_token[same], blank.patch_tokens[same], none)[0])
    return torch.cat(rows)
