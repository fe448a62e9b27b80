"""Identity: the face features of one or more people, computed once and used for every prompt. No photo is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from .recognize import recognize
from .tensor_file import CheckpointError, open_tensor_file, write_safetensors

FORMAT = "faceclip_identity"
LARGEST = torch.finfo(torch.float16).max  # of a feature: no face tower gives more than some hundreds
SAME_TOWER = 0.02  # relative; the same weights in bf16 and in fp32 differ by 0.2 % at most


@dataclass(frozen=True, eq=False)
class Identity:
    """A batch of B people as the face tower sees them.

    class_token: [B, F, 512] and patch_tokens: [B, F, 144, 768] with F = 1 when the branches share one face tower,
    else 2. The class token has width 0 where a FaceT5 without a class head made the identity: FaceCLIP needs it,
    FaceT5 does not.
    present: [B] bool, False where the crop was black: that row conditions like text alone.
    signature: [F, 64], a sample of the tower's weights, so that features never meet another tower's fusion
    module. None within a step of training, where features do not leave the encoder that reads them; such an
    identity fits no tower and is not saved.
    """

    class_token: Tensor
    patch_tokens: Tensor
    present: Tensor
    signature: Tensor | None

    def __len__(self) -> int:
        return len(self.class_token)

    def __getitem__(self, index: int | slice | Sequence[int]) -> Identity:
        """Some of the people, always as a batch: `identity[0]` has length 1. Raises IndexError out of range."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"This identity holds {len(self)} people; there is no number {index}.")
            index = [index % len(self)]
        return Identity(self.class_token[index], self.patch_tokens[index], self.present[index], self.signature)

    def expand(self, count: int) -> Identity:
        """The same person `count` times; raises ValueError if there is more than one."""
        if len(self) != 1:
            raise ValueError(f"Only an identity of one person can be repeated; this one holds {len(self)}.")
        return self[[0] * count]

    def average(self, weights: Sequence[float] | None = None) -> Identity:
        """One person from several pictures: mean direction of class tokens, mean of patch tokens, where there is a face.

        `weights`: how much each picture counts, as many as there are, none below 0.
        Only their ratios matter. Raises ValueError.
        """
        rows = self.present if self.present.any() else torch.ones_like(self.present)
        if weights is not None:
            shares = self._shares(weights, rows)
            return Identity(
                _with_mean_length(self.class_token[rows], shares[:, None, None]),
                (shares[:, None, None, None] * self.patch_tokens[rows]).sum(0, keepdim=True),
                self.present.any().unsqueeze(0),
                self.signature,
            )
        return Identity(
            _with_mean_length(self.class_token[rows]),
            self.patch_tokens[rows].mean(0, keepdim=True),
            self.present.any().unsqueeze(0),
            self.signature,
        )

    def _shares(self, weights: Sequence[float], rows: Tensor) -> Tensor:
        """The weights of these rows, so that they add up to 1. Raises ValueError."""
        if len(weights) != len(self):
            raise ValueError(f"There are {len(weights)} weights for {len(self)} pictures. Give one for each.")
        found = torch.tensor([float(weight) for weight in weights], dtype=torch.float64)[rows.cpu()]
        if not (found >= 0).all() or not 0 < found.sum() < torch.inf:  # so written that NaN is refused
            raise ValueError(
                f"The weights of the pictures with a face are {', '.join(f'{w:g}' for w in found.tolist())}: none may be below "
                "0, and not all of them 0."
            )
        return (found / found.sum()).to(self.patch_tokens)

    @staticmethod
    def blend(first: Identity, second: Identity, ratio: float) -> Identity:
        """`first` at ratio 0, `second` at 1, in between a mix of both.

        Raises ValueError for people of different encoders, batches that do not
        match, a ratio outside [0, 1], or a side without a face.
        """
        if not 0 <= ratio <= 1:
            raise ValueError(f"The blend ratio is {ratio}; it goes from 0 (the first identity) to 1 (the second).")
        first.require_sound()
        second.require_sound()
        first.require_tower(second.signature)
        count = max(len(first), len(second))
        first = first.expand(count) if len(first) == 1 else first
        second = second.expand(count) if len(second) == 1 else second
        if len(first) != len(second):
            raise ValueError(f"Cannot blend {len(first)} with {len(second)} identities: use one on a side, or as many on both.")
        if ratio in (0, 1):
            return second if ratio else first
        if not (first.present.all() and second.present.all()):
            raise ValueError("One of the identities to blend has no face (its crop was black). Connect crops that show a face.")
        pairs = torch.tensor([1 - ratio, ratio])
        class_tokens = torch.stack(_matching_class_tokens([first, second]))
        weights = pairs.to(class_tokens).view(2, 1, 1, 1)
        return Identity(
            _with_mean_length(class_tokens, weights)[0],
            torch.lerp(first.patch_tokens, second.patch_tokens, float(ratio)),
            first.present,
            first.signature,
        )

    @staticmethod
    def cat(identities: Sequence[Identity]) -> Identity:
        """One batch from several. Raises ValueError if they come from different encoders or there is none."""
        if not identities:
            raise ValueError("There is no identity to put together.")
        for other in identities[1:]:
            identities[0].require_tower(other.signature)
        return Identity(
            torch.cat(_matching_class_tokens(identities)),
            torch.cat([identity.patch_tokens for identity in identities]),
            torch.cat([identity.present for identity in identities]),
            identities[0].signature,
        )

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Identity:
        return Identity(
            self.class_token.to(device=device, dtype=dtype),
            self.patch_tokens.to(device=device, dtype=dtype),
            self.present.to(device=device),
            self.signature,
        )

    def require_tower(self, signature: Tensor | None) -> None:
        """Raise ValueError unless these features were made by the face tower with this signature."""
        if not _same(self.signature, signature):
            raise ValueError(_OTHER_TOWER)

    def for_tower(self, signature: Tensor) -> Identity:
        """Of an identity of one or more towers, the features of the one with this signature [1, 64]. Raises ValueError."""
        own = () if self.signature is None else self.signature.split(1)
        for tower, found in enumerate(own):
            if _same(found, signature):
                rows = slice(tower, tower + 1)
                return Identity(self.class_token[:, rows], self.patch_tokens[:, rows], self.present, found)
        raise ValueError(_OTHER_TOWER)

    def require_class_token(self) -> None:
        """Raise ValueError for an identity that a FaceT5 without a class head made: FaceCLIP-SDXL needs the class token."""
        if not self.class_token.shape[-1]:
            raise ValueError(
                "This identity was made by a FaceT5 file without a class head, so it lacks the class token that FaceCLIP needs. "
                "Encode the face again with the FaceCLIP encoder, with face_t5_encoder.pt itself, or with what "
                "`faceclip convert --class-head` makes of it."
            )

    def require_sound(self) -> None:
        """Raise ValueError unless shapes and types are those of the class, and all values finite numbers of a sane size.

        Whoever makes, loads or uses an identity calls this: NaN in it would make black pictures without a word.
        """
        if self.signature is None:
            raise ValueError("This identity does not say which face tower made it, so it is of no use to any encoder.")
        dimensions = (self.class_token.ndim, self.patch_tokens.ndim, self.present.ndim, self.signature.ndim)
        shapes = ", ".join(f"{field.name} {list(getattr(self, field.name).shape)}" for field in fields(self))
        if dimensions != (3, 4, 1, 2) or self.class_token.shape[:2] != self.patch_tokens.shape[:2]:
            raise ValueError(f"This identity is damaged: its parts do not fit each other ({shapes}).")
        if (len(self.present), len(self.signature)) != tuple(self.class_token.shape[:2]):
            raise ValueError(f"This identity is damaged: its parts do not fit each other ({shapes}).")
        features = (self.class_token, self.patch_tokens, self.signature)
        if self.present.dtype != torch.bool or not all(part.is_floating_point() for part in features):
            types = ", ".join(f"{field.name} {getattr(self, field.name).dtype}" for field in fields(self))
            raise ValueError(f"This identity is damaged: features are floating point and `present` is bool; found {types}.")
        for name, part in zip(("class_token", "patch_tokens", "signature"), features, strict=True):
            if part.numel() and not part.abs().max() <= LARGEST:  # so written that NaN is refused
                raise ValueError(
                    f"This identity is damaged: its {name} holds values that are not finite numbers, or far too large. Encode "
                    "the face again from a good photo (Encode Identity)."
                )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file; no photo is in it. The file appears whole or not at all.

        Raises ValueError if damaged.
        """
        self.require_sound()
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        write_safetensors(path, tensors, {"format": FORMAT, "version": "1"})

    @staticmethod
    def load(path: str | Path) -> Identity:
        """Read what `save` wrote. Raises CheckpointError naming the file if it is damaged or something else."""
        file = open_tensor_file(path)
        if file.metadata.get("format") != FORMAT or file.entries.keys() != {field.name for field in fields(Identity)}:
            raise CheckpointError(f"{path} is not a saved FaceCLIP identity. It looks like this: {recognize(file.entries)}")
        identity = Identity(**{name: entry.read() for name, entry in file.entries.items()})
        try:
            identity.require_sound()
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error
        return identity


_OTHER_TOWER = (
    "This identity was made by another encoder: its face features do not fit the one it is used with. "
    "Encode the face again with the encoder that is loaded now (Encode Identity), or load the encoder it was saved with."
)


def _same(mine: Tensor | None, theirs: Tensor | None) -> bool:
    if mine is None or theirs is None:
        return False
    mine, theirs = mine.float().cpu(), theirs.float().cpu()
    return mine.shape == theirs.shape and bool((mine - theirs).norm() <= SAME_TOWER * mine.norm())


def _matching_class_tokens(identities: Sequence[Identity]) -> list[Tensor]:
    """Their class tokens; where one has none, none of them has."""
    width = min(identity.class_token.shape[-1] for identity in identities)
    return [identity.class_token[..., :width] for identity in identities]


def _with_mean_length(class_tokens: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over dim 0 (kept) of the directions of `class_tokens` [N, ..., C], at their mean length."""
    lengths = class_tokens.norm(dim=-1, keepdim=True)
    weights = torch.full_like(lengths, 1 / len(class_tokens)) if weights is None else weights
    direction = torch.nn.functional.normalize((weights * class_tokens / lengths).sum(0, keepdim=True), dim=-1)
    return direction * (weights * lengths).sum(0, keepdim=True)
