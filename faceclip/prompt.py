"""From what a user writes to token ids: FaceCLIP's prefix and identity token, (word:1.2) weights, long prompts.

Users never write the prefix or the identity token; they are added here where a face is present.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import Any, Literal

import torch
from torch import Tensor

PREFIX = "Photo of a id person. "
IDENTITY_TOKEN = 1014  # "id"
IDENTITY_SEARCH = 7  # only here is it replaced: a later "id" in the user's prompt stays a word
START, END, CONTEXT = 49406, 49407, 77
EMPHASIS = 1.1
# Ours, not the release's; of the kind that it negates: faults of the picture, of faces and of hands, and nudity. 75 tokens at
# most, to stay uncut.
NEGATIVE_PROMPT = (
    "nsfw, nudity, low quality, lowres, pixelated, compression artifacts, out of focus, overexposed, abstract, "
    "distorted face, asymmetrical eyes, cross-eyed, malformed pupils, waxy skin, bad proportions, extra limbs, "
    "extra fingers, fused fingers, malformed hands, duplicate, caption, logo, signature, watermark"
)
# For FLUX; ours, too, and of the kind that the release negates: also pictures that look drawn or rendered, and what hides a face.
FLUX_NEGATIVE_PROMPT = (
    "painting, digital art, 3d render, cgi, cartoon, anime, video game, stylised, glossy plastic skin, face mask, "
    f"looking away, spectacles, sunglasses, {NEGATIVE_PROMPT}"
)
_LARGEST_WEIGHT = torch.finfo(torch.float32).max
_EMBEDDING = r"(?:^|(?<=[ \n]))embedding:([^\s,]*)"

LongPrompts = Literal["cut", "chunk"]


@dataclass(frozen=True)
class TokenizedPrompt:
    """One prompt as the text towers read it, in one or more chunks of 77 tokens.

    input_ids: [chunks, 77] int64 (start, text, end, zeros). weights: [chunks, 77], 1 where nothing is emphasised.
    count: tokens of the user's text, without prefix, start and end. cut:
        the end of the prompt that did not fit, or "".
    with_identity: whether every chunk begins with the prefix and its identity token.
    left_out: names of the textual inversions (`embedding:name`) that were written; none of them is encoded.
    """

    input_ids: Tensor
    weights: Tensor
    count: int
    cut: str
    with_identity: bool
    left_out: tuple[str, ...] = ()

    @property
    def room(self) -> int:
        """How many tokens of the user's text a chunk holds: 75 less the prefix, where there is a face."""
        return CONTEXT - 2 - (len(_prefix()) if self.with_identity else 0)

    @property
    def weighted(self) -> bool:
        return bool((self.weights != 1).any())

    def padded_to(self, chunks: int) -> TokenizedPrompt:
        """The same prompt with empty chunks after it, so that prompts of different lengths make one batch."""
        missing = chunks - len(self.input_ids)
        if missing <= 0:
            return self
        empty = tokenize("", self.with_identity)
        input_ids = torch.cat([self.input_ids, empty.input_ids.expand(missing, CONTEXT)])
        return replace(self, input_ids=input_ids, weights=torch.cat([self.weights, torch.ones(missing, CONTEXT)]))


def tokenize(prompt: str, with_identity: bool, long_prompts: LongPrompts = "cut") -> TokenizedPrompt:
    """Tokenize one prompt. Longer than 77 tokens: cut as in the release, or spread over chunks, the prefix in each.

    A prompt without weights gives exactly the release's ids. `embedding:name` is left out, as ComfyUI's text
    nodes leave out a textual inversion that they do not find. Raises ValueError for an unknown `long_prompts`,
    and for a weight that is no number of single precision.
    """
    if long_prompts not in ("cut", "chunk"):
        raise ValueError(f"long_prompts is {long_prompts!r}; choose 'cut' or 'chunk'.")
    encode, decode = _tokenizer()
    prefix = _prefix() if with_identity else ()
    tokens: list[tuple[int, float]] = []
    left_out: list[str] = []
    for text, weight in parse_weights(prompt):
        if not abs(weight) <= _LARGEST_WEIGHT:
            raise ValueError(f"The weight of {text[:40]!r} in the prompt is {weight:g}. Weights are numbers, most from 0 to 2.")
        left_out += re.findall(_EMBEDDING, text)
        tokens += [(token, weight) for token in encode(re.sub(_EMBEDDING, "", text))]
    room = CONTEXT - 2 - len(prefix)
    chunks = [tokens[i : i + room] for i in range(0, len(tokens), room)] or [[]]
    kept = chunks if long_prompts == "chunk" else chunks[:1]
    cut = [token for chunk in chunks[len(kept) :] for token, _ in chunk]
    rows = [[(START, 1.0), *((token, 1.0) for token in prefix), *chunk, (END, 1.0)] for chunk in kept]
    padded = [row + [(0, 1.0)] * (CONTEXT - len(row)) for row in rows]
    return TokenizedPrompt(
        input_ids=torch.tensor([[token for token, _ in row] for row in padded]),
        weights=torch.tensor([[weight for _, weight in row] for row in padded]),
        count=len(tokens),
        cut=decode(cut).strip() if cut else "",
        with_identity=with_identity,
        left_out=tuple(left_out),
    )


def parse_weights(prompt: str) -> list[tuple[str, float]]:
    """Split a prompt into (text, weight): `(a)` is 1.1 times, `((a))` 1.21,
    `(a:1.3)` exactly 1.3, `\\(` is a bracket.

    The rules are those of ComfyUI's text nodes. Unbalanced brackets are
    kept as text, so nothing a user writes is lost.
    """
    parts: list[tuple[str, float]] = []
    for text, weight in _weighted_parts(prompt, 1.0):
        plain = re.sub(r"\\([()])", r"\1", text)
        if parts and parts[-1][1] == weight:
            parts[-1] = (parts[-1][0] + plain, weight)
        elif plain:
            parts.append((plain, weight))
    return parts


def _weighted_parts(text: str, weight: float) -> list[tuple[str, float]]:
    """One pass with a stack of its own, so that no depth of brackets meets Python's recursion limit."""
    closing = _matching_brackets(text)
    parts: list[tuple[str, float]] = []
    ends: list[tuple[int, int, float]] = []  # (where the content stops, where reading goes on, weight outside)
    start = position = 0
    while position <= len(text):
        if ends and position == ends[-1][0]:
            parts.append((text[start:position], weight))
            _, position, weight = ends.pop()
            start = position
            continue
        if position in closing:
            parts.append((text[start:position], weight))
            content_end, explicit = _explicit_weight(text, position + 1, closing[position])
            ends.append((content_end, closing[position] + 1, weight))
            weight = weight * EMPHASIS if explicit is None else explicit
            start = position + 1
        position += 1
    parts.append((text[start:], weight))
    return parts


def _explicit_weight(text: str, start: int, end: int) -> tuple[int, float | None]:
    """For the content text[start:end] of a bracket: where its words end, and the weight written after them, if any."""
    words, _, number = text[start:end].rpartition(":")
    if not words:  # nothing to weigh: `(:3)` is a colon and a 3
        return end, None
    try:
        return start + len(words), float(number)  # whatever Python takes for a number, as ComfyUI does: 1e-1, +1, .5
    except ValueError:
        return end, None


def _matching_brackets(text: str) -> dict[int, int]:
    """Position of each opening bracket that has a partner -> its partner's. Escaped brackets are text."""
    opened: list[int] = []
    pairs: dict[int, int] = {}
    for match in re.finditer(r"\\[()]|[()]", text):
        if match[0] == "(":
            opened.append(match.start())
        elif match[0] == ")" and opened:
            pairs[opened.pop()] = match.start()
    return pairs


@functools.lru_cache(maxsize=1)
def _prefix() -> tuple[int, ...]:
    encode, _ = _tokenizer()
    return tuple(encode(PREFIX))


@functools.lru_cache(maxsize=1)
def _tokenizer() -> tuple[Callable[[str], list[int]], Callable[[Sequence[int]], str]]:
    tokenizer = _module_alone("open_clip.tokenizer").SimpleTokenizer()
    return tokenizer.encode, tokenizer.decode


def _module_alone(name: str) -> Any:
    """A module of a package, without the rest of the package: OpenCLIP as a whole takes seconds to import."""
    package = find_spec(name.partition(".")[0])
    found = PathFinder.find_spec(name, package and package.submodule_search_locations)
    if name in sys.modules or found is None or found.loader is None:
        return import_module(name)  # which says what is missing
    module = module_from_spec(found)
    found.loader.exec_module(module)
    return module
