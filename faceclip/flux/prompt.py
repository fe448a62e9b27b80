"""From what a user writes to T5's 512 token ids, with (word:1.2) weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..prompt import parse_weights

TOKENS, END, PADDING = 512, 1, 0


@dataclass(frozen=True)
class T5Prompt:
    """A prompt as T5 reads it.

    input_ids: [512] int64, the text, the end token, padding. weights:
        [512, 1]. plain: the text without brackets and weights.
    count: tokens of the text. cut: the end of the prompt that did not fit, or "".
    """

    input_ids: Tensor
    weights: Tensor
    plain: str
    count: int
    cut: str

    @property
    def weighted(self) -> bool:
        return bool((self.weights != 1).any())


def read_prompt(prompt: str, tokenizer: Any) -> T5Prompt:
    """`tokenizer`: transformers' T5 tokenizer of FLUX. A prompt without weights gives exactly the release's ids."""
    parts = parse_weights(prompt)
    tokens = [
        (token, weight)
        for text, weight in parts
        for token in tokenizer(text, add_special_tokens=False, truncation=False).input_ids
    ]
    kept, cut = tokens[: TOKENS - 1], [token for token, _ in tokens[TOKENS - 1 :]]
    padded = [*kept, (END, 1.0), *[(PADDING, 1.0)] * (TOKENS - 1 - len(kept))]
    return T5Prompt(
        input_ids=torch.tensor([token for token, _ in padded]),
        weights=torch.tensor([weight for _, weight in padded]).unsqueeze(-1),
        plain="".join(text for text, _ in parts),
        count=len(tokens),
        cut=tokenizer.decode(cut).strip() if cut else "",
    )
