"""FaceT5Encoder: T5's reading of a prompt, and a face, to what FLUX gets in T5's place.

B prompts, T = 512 T5 tokens, P = 144 face patches, d = 4096 (T5-XXL's width).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..encoder_file import Progress, read_converted
from ..identity import Identity
from ..model.face_tower import FaceTower
from ..model.fusion import Fuser
from ..model.identity_encoder import IdentityEncoder, require_finite, require_strength
from ..ops import cast
from .config import FaceT5Config
from .file import open_facet5_file


class FaceT5Encoder(IdentityEncoder):
    """FaceT5's own part: the face tower, and the fusion module between it and T5.

    T5 itself and CLIP-L are the caller's.

    It holds what has an effect on the embeddings: 1,023 M of the 1,389 M values of the released file's part. With
    `class_head` the tower also gives class tokens, which FaceT5 does not use: an identity that has one serves
    FaceCLIP, too.

    Each row is fused by itself. The released code lets the face patches of a batch attend to each other across
    its images, by a slip that has no effect for the one image at a time of its own script: what that gives is
    what this gives.
    """

    def __init__(self, config: FaceT5Config, operations: Any = nn, class_head: bool = False):
        super().__init__()
        self.config = config
        self.face_encoder = FaceTower(config.face, operations, class_head)
        self.face_patch_proj = operations.Linear(config.face.width, config.width)
        self.fuser = Fuser(config.width, config.face.grid, config.fusion, operations, unused_weights=False)
        self.register_buffer("positional_embedding", torch.zeros(1, config.context, config.width))

    positional_embedding: Tensor

    @staticmethod
    def from_file(
        path: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        compute_dtype: torch.dtype | None = None,
        operations: Any = None,
        progress: Progress | None = None,
    ) -> FaceT5Encoder:
        """Read the released `face_t5_encoder.pt`, a safetensors of it, or a converted file.

        T5 and CLIP-L in it stay unread.

        dtype: what the weights are kept in. compute_dtype: by default `dtype`
            where the device is fast in it, else fp32.
        operations: by default `torch.nn`, or layers that cast their weights when the two differ.
        progress: told (tensors read, of how many).

        Raises CheckpointError for a file that is something else, or not whole, and says what was found.
        """
        file = open_facet5_file(path)
        device = torch.device(device)
        tensors = read_converted(file.entries, dtype, device, progress)
        compute_dtype, operations = ops.chosen(dtype, device, compute_dtype, operations)
        with ops.without_values():
            encoder = FaceT5Encoder(file.config, operations, file.class_head)
        encoder.adopt(tensors, compute_dtype)
        return encoder

    @property
    def face_towers(self) -> list[FaceTower]:
        return [self.face_encoder]

    @property
    def joint_layers(self) -> list[nn.Module]:
        return self.fuser.layers

    @torch.no_grad()
    def encode(self, t5_hidden: Tensor, identity: Identity | None = None, *, strength: float = 1.0) -> Tensor:
        """T5's last hidden states of N prompts, padded to 512 tokens [N, 512,
        4096] -> embeddings of that shape for FLUX.

        identity: one person for all prompts, or one each (then one prompt serves all people, too); None is the black
        face, which stands for no face. An identity of FaceCLIP-SDXL serves if its face tower is the same.
        strength: 1 is the model as trained; 0 is exactly the black face; in between and above interpolate.

        Raises ValueError for other shapes, numbers that do not match, or an identity of another face tower.
        """
        require_strength(strength)
        self._check_hidden(t5_hidden)
        hidden = t5_hidden.to(self.device, self.compute_dtype)
        if identity is not None:
            identity.require_sound()
            identity = identity.for_tower(self.signature())
            self.require_fit(identity, self.config.face)
            hidden, identity = _paired(hidden, identity)
        if identity is None or strength == 0:
            result = self._fuse(hidden, self.blank_face())
        else:
            result = self._fuse(hidden, identity)
            if strength != 1:
                result = torch.lerp(self._fuse(hidden, self.blank_face()), result, strength)
        require_finite(result)
        return result

    @staticmethod
    def emphasise(embeddings: Tensor, empty: Tensor, weights: Tensor) -> Tensor:
        """Weighted words, as FaceCLIP has them: a weight moves a token away from
        what the empty prompt of the same person has.

        `embeddings` and `empty` [N, 512, 4096], each with its identity, `weights` [512, 1] or [N, 512, 1], 1 where
        nothing is emphasised. Raises ValueError for weights that make no finite numbers.
        """
        result = torch.lerp(empty, embeddings, weights.to(embeddings))
        require_finite(result)
        return result

    def _fuse(self, hidden: Tensor, people: Identity) -> Tensor:
        patches = people.patch_tokens[:, 0].to(self.device, self.compute_dtype)
        return self(hidden, patches.expand(len(hidden), -1, -1))

    def forward(self, hidden: Tensor, patch_tokens: Tensor) -> Tensor:
        """T5's `hidden` [B, T, d] and `patch_tokens` [B, P, w], row by row -> the joint representation [B, T, d]."""
        positions = cast(self.positional_embedding, hidden)[0]
        return self.fuser(hidden, positions, self.face_patch_proj(patch_tokens), None)

    def _check_hidden(self, hidden: Tensor) -> None:
        expected = [self.config.context, self.config.width]
        if hidden.ndim == 3 and list(hidden.shape[1:]) == expected and len(hidden):
            return
        found = list(hidden.shape)
        if hidden.ndim == 3 and hidden.shape[2] != expected[1]:
            raise ValueError(
                f"This T5 is of another size: it gives hidden states of width {found[2]}, and this FaceT5 takes {expected[1]}. "
                "Use T5-XXL v1.1, FLUX's own text encoder (t5xxl)."
            )
        raise ValueError(f"T5's hidden states must be [prompts, {expected[0]}, {expected[1]}], padding included; found {found}.")


def _paired(hidden: Tensor, identity: Identity) -> tuple[Tensor, Identity]:
    if len(identity) == 0:
        raise ValueError("The identity holds no person (an empty batch of faces was encoded).")
    if len(hidden) == 1:
        hidden = hidden.expand(len(identity), -1, -1)
    if len(identity) not in (1, len(hidden)):
        raise ValueError(
            f"{len(hidden)} prompts and {len(identity)} identities do not match: "
            "use one prompt, one identity, or as many of each."
        )
    return hidden, identity
