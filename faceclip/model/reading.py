"""What is asked of the encoder at once: prompts, and whose face each is read with.

And what it need not compute again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..identity import Identity
from ..prompt import LongPrompts, TokenizedPrompt, tokenize

_PEOPLE_KEPT = 64  # 0.6 MB each


@dataclass(frozen=True)
class Reading:
    """N prompts of equally many chunks, and the people they are read with: one person for all of them, or one each."""

    prompts: tuple[TokenizedPrompt, ...]
    people: Identity

    @staticmethod
    def of(prompts: Sequence[str], people: Identity, long_prompts: LongPrompts, chunks: int = 1) -> Reading:
        """Tokenize; every prompt is filled up to as many chunks as the longest has, `chunks` at least."""
        has_face = people.present.tolist() if len(people) > 1 else people.present.tolist() * len(prompts)
        read = [tokenize(prompt, face, long_prompts) for prompt, face in zip(prompts, has_face, strict=True)]
        chunks = max(chunks, *(len(prompt.input_ids) for prompt in read))
        return Reading(tuple(prompt.padded_to(chunks) for prompt in read), people)

    @property
    def chunks(self) -> int:
        return len(self.prompts[0].input_ids)

    @property
    def weighted(self) -> bool:
        return any(prompt.weighted for prompt in self.prompts)

    @property
    def each_person(self) -> list[Identity]:
        return [self.people[person] for person in range(len(self.people))]

    @property
    def rows(self) -> tuple[Tensor, Identity]:
        """What the encoder reads: token ids [N * chunks, 77], and whose face is in each."""
        return torch.cat([prompt.input_ids for prompt in self.prompts]), self.people[self._person]

    def result(self, embeddings: Tensor, pooled: Tensor, empty: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """From the rows' embeddings [N * chunks, 77, 2048] and pooled [N * chunks, 1280] to those of the prompts.

        empty: for weighted words, what the empty prompt gives with each of the people [77, 2048]; else none.
        Returns embeddings [N, 77 * chunks, 2048] and pooled [N, 1280], of each prompt's first chunk.
        """
        if empty:
            weights = torch.cat([prompt.weights for prompt in self.prompts]).to(embeddings)
            embeddings = torch.lerp(torch.stack([*empty]).to(embeddings)[self._person], embeddings, weights.unsqueeze(-1))
        return embeddings.unflatten(0, (-1, self.chunks)).flatten(1, 2), pooled[:: self.chunks]

    @property
    def _person(self) -> list[int]:
        """Who of `people` each of the N * chunks rows is read with."""
        own = [0] * len(self.prompts) if len(self.people) == 1 else range(len(self.prompts))
        return [person for person in own for _ in range(self.chunks)]


class EmptyPrompts:
    """What an encoder makes of the empty prompt, from which weighted words
    are measured: kept for some 64 people, then afresh.

    Kept only while the encoder stays as it is: one that trains, or whose
    weights have changed since, computes it again.
    """

    def __init__(self):
        self._state: Hashable = None
        self._kept: dict[bytes, Tensor] = {}

    def of(self, encoder: nn.Module, others: Hashable) -> dict[bytes, Tensor]:
        """The embeddings [77, 2048] by person (`digest`), to be added to. `others`: what else they depend on."""
        weights = list(encoder.parameters())
        state = (others, *((id(w), 0 if w.is_inference() else w._version) for w in weights))
        if encoder.training or any(w.requires_grad for w in weights) or state != self._state or len(self._kept) > _PEOPLE_KEPT:
            self._state, self._kept = state, {}
        return self._kept


def digest(person: Identity) -> bytes:
    """Tells one person's features from any others'."""
    parts = (person.class_token, person.patch_tokens, person.present)
    found = hashlib.sha256()
    for part in parts:
        found.update(str((part.dtype, tuple(part.shape))).encode())
        found.update(part.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.digest()
