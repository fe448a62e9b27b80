"""FaceCLIPEncoder: prompts and faces to SDXL conditioning, both branches (paper, section 3.2)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import FaceCLIPConfig
from ..identity import Identity
from ..prompt import CONTEXT, LongPrompts, TokenizedPrompt, tokenize
from .branch import BranchOutput, FaceCLIPBranch
from .face_tower import FaceTower
from .identity_encoder import IdentityEncoder, require_finite, require_strength

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conditioning:
    """What SDXL gets for N prompts: embeddings [N, 77 * chunks, 2048], pooled [N, 1280], and how each prompt was read."""

    embeddings: Tensor
    pooled: Tensor
    prompts: tuple[TokenizedPrompt, ...]


class FaceCLIPEncoder(IdentityEncoder):
    """Both FaceCLIP branches. `state_dict()` has the released file's names and shapes.

    With `share_face_tower` the branches hold one face tower, under both its names; it runs once per face.
    """

    def __init__(self, config: FaceCLIPConfig, operations: Any = nn, share_face_tower: bool = True):
        super().__init__()
        self.config = config
        tower: FaceTower | None = None
        for name, branch in config.branches.items():
            if tower is None or not share_face_tower:
                tower = FaceTower(branch.face, operations)
            setattr(self, f"face_clip_{name}", FaceCLIPBranch(branch, tower, operations))

    @staticmethod
    def from_file(
        path: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        compute_dtype: torch.dtype | None = None,
    ) -> FaceCLIPEncoder:
        """Read the released `.pt`, a safetensors of it, or a converted file, with one branch or both.

        `dtype` is what the weights are kept in. `compute_dtype` defaults to it where the device is fast in it, else to
        fp32 (bf16 and fp16 on CPUs without such instructions). Raises CheckpointError, which says what the file looks like.
        """
        from ..checkpoint import load_encoder

        return load_encoder(path, torch.device(device), dtype, compute_dtype)

    @property
    def branches(self) -> dict[str, FaceCLIPBranch]:
        return {name: getattr(self, f"face_clip_{name}") for name in self.config.branches}

    @property
    def face_towers(self) -> list[FaceTower]:
        """The distinct face towers: one when the branches share it."""
        return list({id(branch.face_encoder): branch.face_encoder for branch in self.branches.values()}.values())

    @property
    def joint_layers(self) -> list[nn.Module]:
        """The layers that run once per batch of prompts, nearly in order."""
        return [layer for branch in self.branches.values() for layer in branch.layers]

    @torch.no_grad()
    def encode(
        self,
        prompts: Sequence[str],
        identity: Identity | None = None,
        *,
        strength: float = 1.0,
        long_prompts: LongPrompts = "cut",
    ) -> Conditioning:
        """Encode N prompts with no face, one face for all of them, or one each (then one prompt serves all faces, too).

        `strength` 1 is the model as trained; 0 is exactly the text-only conditioning; in between and above interpolate.
        Words in (brackets:1.2) are weighted as in ComfyUI, by distance from the empty prompt of the same identity.
        Raises ValueError for no prompt, numbers of prompts and identities that do not match, another encoder's identity or one
        that is damaged, and for a strength or weights that make conditioning which is no finite numbers.
        """
        require_strength(strength)
        if identity is not None:
            identity.require_sound()
        prompts, identity = _broadcast(prompts, identity)
        if identity is None or strength == 0:
            return _finite(self._encode(prompts, None, long_prompts))
        identity.require_tower(self.signature())
        identity.require_class_token()
        self.require_fit(identity, next(iter(self.config.branches.values())).face)
        with_face = self._encode(prompts, identity, long_prompts)
        if strength == 1:
            return _finite(with_face)
        text_only = self._encode(prompts, None, long_prompts, chunks=with_face.embeddings.shape[1] // CONTEXT)
        return _finite(
            Conditioning(
                torch.lerp(text_only.embeddings, with_face.embeddings, strength),
                torch.lerp(text_only.pooled, with_face.pooled, strength),
                with_face.prompts,
            )
        )

    def _encode(
        self, prompts: Sequence[str], identity: Identity | None, long_prompts: LongPrompts, chunks: int = 1
    ) -> Conditioning:
        people = (self.blank_face() if identity is None else identity).to(self.device, self.compute_dtype)
        person = [0] * len(prompts) if len(people) == 1 else list(range(len(prompts)))  # whose face each prompt has
        has_face = people.present.tolist()
        tokenized = [tokenize(p, has_face[i], long_prompts) for p, i in zip(prompts, person, strict=True)]
        for prompt in tokenized:
            if prompt.cut:
                logger.warning("The prompt is too long (%d tokens); this was cut off: %r", prompt.count, prompt.cut)
            for name in prompt.left_out:
                logger.warning("embedding:%s was left out: FaceCLIP's encoder knows no textual inversions. Use words.", name)
        chunks = max(chunks, *(len(prompt.input_ids) for prompt in tokenized))
        tokenized = [prompt.padded_to(chunks) for prompt in tokenized]
        person = [i for i in person for _ in range(chunks)]
        embeddings, pooled = self.joint(torch.cat([prompt.input_ids for prompt in tokenized]), people[person])
        if any(prompt.weighted for prompt in tokenized):
            # Emphasis moves a token away from what the empty prompt of the same person has in its place.
            empty, _ = self.joint(torch.cat([tokenize("", face).input_ids for face in has_face]), people)
            weights = torch.cat([prompt.weights for prompt in tokenized]).to(embeddings)
            embeddings = torch.lerp(empty[person], embeddings, weights.unsqueeze(-1))
        return Conditioning(embeddings.unflatten(0, (-1, chunks)).flatten(1, 2), pooled[::chunks], tuple(tokenized))

    def joint(self, input_ids: Tensor, identity: Identity) -> tuple[Tensor, Tensor]:
        """`input_ids` [N, 77] with an identity each -> embeddings [N, 77, 2048], pooled [N, 1280]."""
        outputs = self(input_ids.to(self.device), identity)
        return torch.cat([o.fused for o in outputs.values()], dim=-1), list(outputs.values())[-1].pooled

    def forward(self, input_ids: Tensor, identity: Identity) -> dict[str, BranchOutput]:
        """`input_ids` [N, 77] int64 and N identities -> each branch's output. Gradients flow; training calls this."""
        towers = self.face_towers
        outputs = {}
        for name, branch in self.branches.items():
            tower = next(i for i, tower in enumerate(towers) if tower is branch.face_encoder)
            outputs[name] = branch(input_ids, identity.class_token[:, tower], identity.patch_tokens[:, tower], identity.present)
        return outputs


def _finite(result: Conditioning) -> Conditioning:
    require_finite(result.embeddings, result.pooled)
    return result


def _broadcast(prompts: Sequence[str], identity: Identity | None) -> tuple[list[str], Identity | None]:
    if isinstance(prompts, str):
        raise ValueError("encode() takes a list of prompts; wrap a single one: encode([prompt]).")
    prompts = list(prompts)
    if not prompts:
        raise ValueError("There is no prompt to encode.")
    if identity is None:
        return prompts, None
    if len(identity) == 0:
        raise ValueError("The identity holds no person (an empty batch of faces was encoded).")
    if len(prompts) == 1:
        return prompts * len(identity), identity
    if len(identity) not in (1, len(prompts)):
        raise ValueError(
            f"{len(prompts)} prompts and {len(identity)} identities do not match: "
            "use one prompt, one identity, or as many of each."
        )
    return prompts, identity
