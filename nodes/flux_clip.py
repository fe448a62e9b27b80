"""A prompt through the core's CLIP of type flux, read as FaceT5 wants it: T5 padded to 512 tokens and cut there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.sd
import torch
from torch import Tensor

T5_TOKENS = 512
_END = 1
_FLUX = {"l", "t5xxl"}  # what FLUX's tokenizer makes of a prompt
_OTHERS: Mapping[frozenset[str], str] = {
    frozenset({"l"}): "Stable Diffusion 1.x's",
    frozenset({"l", "g"}): "SDXL's",
    frozenset({"g"}): "the SDXL refiner's",
    frozenset({"h"}): "Stable Diffusion 2.x's",
    frozenset({"l", "g", "t5xxl"}): "Stable Diffusion 3's",
    frozenset({"t5xxl"}): "a T5 alone",
    frozenset({"l", "llama"}): "HunyuanVideo's",
}


@dataclass(frozen=True)
class FluxPrompt:
    """A prompt as both text encoders read it.

    tokens: for the core's CLIP, all of weight 1: T5's 512, CLIP-L's first 77. weights: [512, 1], of T5's tokens.
    count: T5 tokens of the text, without the end token. cut: the end of the prompt that did not fit, or "".
    """

    tokens: dict[str, Any]
    weights: Tensor
    count: int
    cut: str

    @property
    def weighted(self) -> bool:
        return bool((self.weights != 1).any())

    @property
    def status(self) -> str:
        """How long it is, and what of it was left out."""
        length = f"{self.count} of {T5_TOKENS - 1} tokens"
        return f"{length}: too long. Left out: {self.cut}" if self.cut else length


def read_prompt(clip: comfy.sd.CLIP, prompt: str) -> FluxPrompt:
    """Tokenize with the core's own tokenizers. Raises ValueError, with its name, for a CLIP that is not FLUX's."""
    if clip is None:
        raise ValueError(f"There is no CLIP: the checkpoint it should come from has none. {_ADVICE}")
    # T5 attends to its padding, so how much of it there is matters: the core's own default is 256.
    found = clip.tokenize(prompt, tokenizer_options={"t5xxl_min_length": T5_TOKENS, "t5xxl_min_padding": None})
    if set(found) != _FLUX:
        kind = _OTHERS.get(frozenset(found), f"of another model ({type(clip.cond_stage_model).__name__})")
        raise ValueError(f"This CLIP is {kind}, and FaceT5 needs FLUX's. {_ADVICE}")
    tokens = [pair for batch in found["t5xxl"] for pair in batch]
    count = _text_length(tokens)
    cut = tokens[T5_TOKENS - 1 : count]
    if cut:
        tokens = [*tokens[: T5_TOKENS - 1], (_END, 1.0)]
    return FluxPrompt(
        tokens={"t5xxl": [_plain(tokens)], "l": [_plain(found["l"][0])]},
        weights=torch.tensor([weight for _, weight in tokens]).unsqueeze(-1),
        count=count,
        cut=_words(clip, [token for token, _ in cut]),
    )


def encode_prompt(clip: comfy.sd.CLIP, prompt: FluxPrompt) -> list[tuple[Tensor, dict[str, Any]]]:
    """T5's hidden states [1, 512, 4096], and what else the core says of them, CLIP-L's pooled state among it.

    One pair, or one for each part of a schedule that the CLIP has hooks for.
    """
    return [(hidden, options) for hidden, options in clip.encode_from_tokens_scheduled(prompt.tokens)]


_ADVICE = "Load t5xxl and clip_l with the core node DualCLIPLoader, type flux."


def _text_length(tokens: Sequence[tuple[Any, float]]) -> int:
    """How many tokens come before the end token, which is the last one that is no padding."""
    return max(i for i, (token, _) in enumerate(tokens) if not isinstance(token, int) or token != 0)


def _plain(tokens: Sequence[tuple[Any, float]]) -> list[tuple[Any, float]]:
    return [(token, 1.0) for token, _ in tokens]


def _words(clip: comfy.sd.CLIP, tokens: Sequence[Any]) -> str:
    """Tokens as text; an embedding among them has no words."""
    return clip.tokenizer.t5xxl.tokenizer.decode([token for token in tokens if isinstance(token, int)]).strip()
