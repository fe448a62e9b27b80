"""FaceCLIPEncoder: prompts and faces to SDXL conditioning, both branches (paper, section 3.2)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..config import METADATA_KEY, FaceCLIPConfig
from ..encoder_file import (
    TOWER,
    Progress,
    config_of,
    open_encoder_file,
    read_converted,
    require_encoder,
    share_face_tower,
    stored_dtype,
)
from ..identity import Identity
from ..prompt import LongPrompts, TokenizedPrompt
from ..tensor_file import write_safetensors
from .branch import BranchOutput, FaceCLIPBranch
from .face_tower import FaceTower
from .identity_encoder import IdentityEncoder, require_finite, require_strength
from .int8 import linear_to_int8
from .reading import EmptyPrompts, Reading, digest
from .text_tower import SelfAttention

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conditioning:
    """What SDXL gets for N prompts: embeddings [N, 77 * chunks, 2048],
    pooled [N, 1280], and how each prompt was read."""

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
        self.is_int8 = False
        self._empty_prompts = EmptyPrompts()
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
        operations: Any = None,
        progress: Progress | None = None,
    ) -> FaceCLIPEncoder:
        """Read the released `.pt`, a safetensors of it, or a converted file, with one branch or both.

        dtype: what the weights are kept in. They have no gradients, and equal face towers are held once.
            torch.int8 is `to_int8` of the file as it is, for computing on a CPU.
        compute_dtype: by default `dtype` where the device is fast in it, else
            fp32 (bf16 and fp16 on CPUs without such instructions).
        operations: by default `torch.nn`, or layers that cast their weights when the two differ.
        progress: told (tensors read, of how many).

        Raises CheckpointError, which says what the file looks like, and ValueError for int8 on another device.
        """
        if dtype == torch.int8:
            encoder = FaceCLIPEncoder.from_file(
                path, device, stored_dtype(path), compute_dtype or torch.float32, operations, progress
            )
            encoder.to_int8()
            return encoder
        file = open_encoder_file(path)
        config, device = config_of(file), torch.device(device)
        with ops.without_values():  # before anything is read
            one_tower = not any(name.startswith(TOWER) for name in file.entries)
            require_encoder(file, FaceCLIPEncoder(config), file.entries, shared=one_tower)
        tensors = read_converted(file.entries, dtype, device, progress)
        shared = share_face_tower(tensors, config)
        compute_dtype, operations = ops.chosen(dtype, device, compute_dtype, operations)
        with ops.without_values():
            encoder = FaceCLIPEncoder(config, operations, share_face_tower=shared)
        require_encoder(file, encoder, tensors)
        encoder.adopt(tensors, compute_dtype)
        return encoder

    def to_int8(self) -> None:
        """Keep the linear layers of text towers and fusion modules in int8: 949 M of the release's 1,318 M values.

        For CPUs. The face tower stays as it is, so identities are the same; so do embeddings and norms. The
        encoder cannot be trained or saved any more. Raises ValueError on another device.
        """
        if self.device.type != "cpu":
            raise ValueError(f"int8 is for an encoder that computes on a CPU; this one is on {self.device}. Choose fp16 or bf16.")
        for branch in self.branches.values():
            for part in (branch.transformer, branch.fuser):
                for layer in part.modules():
                    if isinstance(layer, SelfAttention):
                        layer.to_int8()
                linear_to_int8(part)
        self.is_int8 = True

    def save(self, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
        """Write our format: safetensors, configuration in the metadata, a shared face tower once. Whole or not at all."""
        if self.is_int8:
            raise ValueError("An encoder in int8 is not saved: its weights are rounded. Save it in fp32, bf16 or fp16.")
        tensors = self.state_dict()
        if len(self.face_towers) < len(self.branches):
            tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(TOWER)}
        own = {"format": "faceclip_encoder", METADATA_KEY: self.config.to_json()}
        write_safetensors(path, tensors, {**own, **(metadata or {})})

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

        `strength` 1 is the model as trained; 0 is exactly the text-only conditioning; in between and above
        interpolate. Words in (brackets:1.2) are weighted as in ComfyUI, by distance from the empty prompt of the same
        identity: of a frozen encoder (`from_file` gives one) that is computed once per person.
        Raises ValueError for no prompt, numbers of prompts and identities that do not match, another encoder's
        identity or one that is damaged, and for a strength or weights that make conditioning that is not finite.
        """
        return self._encode([self._request(prompts, identity, strength, long_prompts)])[0]

    @torch.no_grad()
    def encode_with_negative(
        self,
        prompts: Sequence[str],
        negative_prompts: Sequence[str],
        identity: Identity | None = None,
        *,
        strength: float = 1.0,
        long_prompts: LongPrompts = "cut",
    ) -> tuple[Conditioning, Conditioning]:
        """Positive and negative conditioning in one pass: `encode(prompts,
        identity, ...)` and `encode(negative_prompts)`.

        The negative prompts see no face. The two need not have equally many rows, nor equally many chunks.
        Each row is what `encode` gives alone, but that a batch of another size may round differently, by 1e-5 of
        the norm in fp32. Raises ValueError as `encode` does.
        """
        positive = self._request(prompts, identity, strength, long_prompts)
        negative = self._request(negative_prompts, None, 1.0, long_prompts)
        found = self._encode([positive, negative])
        return found[0], found[1]

    def _request(
        self, prompts: Sequence[str], identity: Identity | None, strength: float, long_prompts: LongPrompts
    ) -> tuple[Reading, Reading | None, float]:
        """What to read, what to read without a face for a strength in between, and the strength. Raises ValueError."""
        require_strength(strength)
        if identity is not None:
            identity.require_sound()
        prompts, identity = _broadcast(prompts, identity)
        if identity is None or strength == 0:
            return Reading.of(prompts, self.blank_face(), long_prompts), None, 1.0
        identity.require_tower(self.signature())
        identity.require_class_token()
        self.require_fit(identity, next(iter(self.config.branches.values())).face)
        reading = Reading.of(prompts, identity, long_prompts)
        text_only = None if strength == 1 else Reading.of(prompts, self.blank_face(), long_prompts, reading.chunks)
        return reading, text_only, strength

    def _encode(self, requests: Sequence[tuple[Reading, Reading | None, float]]) -> list[Conditioning]:
        """All that was asked for, in one pass. Raises ValueError."""
        for prompt in (prompt for reading, _, _ in requests for prompt in reading.prompts):
            if prompt.cut:
                logger.warning("The prompt is too long (%d tokens); this was cut off: %r", prompt.count, prompt.cut)
            for name in prompt.left_out:
                logger.warning("embedding:%s was left out: FaceCLIP's encoder knows no textual inversions. Use words.", name)
        outputs = iter(self._read([r for reading, text_only, _ in requests for r in (reading, text_only) if r is not None]))
        found = []
        for reading, text_only, strength in requests:
            embeddings, pooled = next(outputs)
            if text_only is not None:
                plain, plain_pooled = next(outputs)
                embeddings, pooled = torch.lerp(plain, embeddings, strength), torch.lerp(plain_pooled, pooled, strength)
            require_finite(embeddings, pooled)
            found.append(Conditioning(embeddings, pooled, reading.prompts))
        return found

    def _read(self, readings: Sequence[Reading]) -> list[tuple[Tensor, Tensor]]:
        """Of each reading, embeddings [N, 77 * chunks, 2048] and pooled [N, 1280]."""
        rows = [reading.rows for reading in readings]
        people = Identity.cat([person.to(self.device, self.compute_dtype) for _, person in rows])
        embeddings, pooled = self.joint(torch.cat([input_ids for input_ids, _ in rows]), people)
        counts = [len(input_ids) for input_ids, _ in rows]
        outputs = zip(readings, embeddings.split(counts), pooled.split(counts), strict=True)
        return [reading.result(e, p, self._empty(reading) if reading.weighted else []) for reading, e, p in outputs]

    def _empty(self, reading: Reading) -> list[Tensor]:
        """Of each person, the empty prompt's embeddings [77, 2048]: emphasis
        moves a token away from what they have there."""
        kept = self._empty_prompts.of(self, (self.device, self.compute_dtype))
        found = []
        for person in reading.each_person:
            if (key := digest(person)) not in kept:
                # By itself: a batch might round it differently, and one graph then give two pictures.
                input_ids, own = Reading.of([""], person, "cut").rows
                kept[key] = self.joint(input_ids, own.to(self.device, self.compute_dtype))[0][0].cpu()
            found.append(kept[key])
        return found

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
