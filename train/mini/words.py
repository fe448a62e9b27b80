"""What captions tell carried into the conditioning, token by token.

Not the paper's.

A CLIP of drawn people knows a hat from a crown, but its tokens hardly know a red hat from a blue one: places
and things already tell the 96 captions of a batch apart. Here one linear map for all tokens of the joined
encoder has to name the token's own word and the colour that was named last, which is that of the next noun.
The text towers learn along. Everything else of both outputs stays as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Linear

from faceclip import FaceCLIPEncoder
from faceclip.model.text_tower import END_OF_TEXT

from ..cache.features import FeatureCache
from ..data.captions import caption_ids, with_prefix
from ..data.shards import ShardSource
from ..frozen.faces import with_blank
from ..proof.fitting import Schedule, fit, forget, state_of
from ..proof.teachers.pictures import shuffled
from ..proof.workshop import CPU
from ..synthetic.scenes import COLOURS
from .carry import Standard, learn_with_text

STAYS = 1.0
"""Weight of both outputs' distance from what they were, beside the words' and the colours' 1."""


def last_colours(ids: Tensor) -> Tensor:
    """Token ids [B, 77] -> [B, 77, 4]: the colour named last at each token, or 0.

    Red, green and blue in [-1, 1], and 1.
    """
    found = torch.zeros(*ids.shape, 4)
    for name, colour in COLOURS.items():
        told = caption_ids(name)
        (number,) = told[spoken(told[None])[0]].tolist()
        found[ids == number] = torch.tensor([*(2 * value - 1 for value in colour), 1.0])
    for place in range(1, ids.shape[1]):
        now = found[:, place]
        found[:, place] = torch.where(now[:, 3:] == 1, now, found[:, place - 1])
    return found


def carry_words(
    joined: Path, shards: str | Path, features: Path, schedule: Schedule, out: Path, device: torch.device = CPU
) -> dict[str, float]:
    """Train the encoder in `joined` on; write it to `out`.

    Returns, on 50 batches, its outputs' distance from what they were, and what the map misses of words and
    colours, all as shares of the variance.

    features: a cache of `shards` with class_token and patch_tokens.
    """
    source = ShardSource(shards, read=("caption",))
    ids = torch.stack([caption_ids(source[row].caption) for row in range(len(source))])
    ids = with_prefix(ids, torch.ones(len(ids), dtype=torch.bool))
    said, colours_told = spoken(ids), last_colours(ids)
    cache = FeatureCache(features, source)
    encoder = FaceCLIPEncoder.from_file(joined).to(device)
    before = FaceCLIPEncoder.from_file(joined).eval().requires_grad_(False).to(device)
    for branch in encoder.branches.values():
        learn_with_text(branch)  # pyright: ignore[reportArgumentType]
    embeddings = torch.cat([branch.token_embedding.weight.float() for branch in before.branches.values()], dim=1)  # pyright: ignore

    def outputs(rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        faces = cache.read(rows)
        class_token, patches = (faces[name].to(device).float() for name in ("class_token", "patch_tokens"))
        identity = with_blank(class_token, patches, torch.ones(len(rows), dtype=torch.bool), encoder)
        read = ids[rows].to(device)
        with torch.no_grad():
            former = before.joint(read, identity)
        return *encoder.joint(read, identity), *former

    sample = torch.randperm(len(source), generator=torch.Generator().manual_seed(schedule.seed))[:512]
    with torch.no_grad():
        fused, pooled, _, _ = outputs(sample)
    standards = Standard(fused.flatten(0, 1)), Standard(pooled)
    of_words = Standard(embeddings[ids[sample][said[sample]].to(device)])
    of_colours = Standard(colours_told[sample][said[sample]].to(device))
    torch.manual_seed(schedule.seed)
    reader = Linear(fused.shape[-1], embeddings.shape[1] + 4).to(device)

    def errors_of(rows: Tensor) -> dict[str, Tensor]:
        fused, pooled, *former = outputs(rows)
        kept = [standard(now) - standard(then) for standard, now, then in zip(standards, (fused, pooled), former, strict=True)]
        chosen = said[rows]
        words, colours = reader(standards[0](fused[chosen.to(device)])).split([embeddings.shape[1], 4], dim=-1)
        return {
            "tokens": kept[0].square().mean(),
            "pooled": kept[1].square().mean(),
            "words": F.mse_loss(words, of_words(embeddings[ids[rows][chosen].to(device)])),
            "colours": F.mse_loss(colours, of_colours(colours_told[rows][chosen].to(device))),
        }

    def loss_of(rows: Tensor) -> Tensor:
        errors = errors_of(rows)
        return STAYS * (errors["tokens"] + errors["pooled"]) + errors["words"] + errors["colours"]

    def batches(steps: int) -> Iterator[Tensor]:
        return shuffled(len(source), schedule.batch, steps, schedule.seed)

    fit("words", nn.ModuleList([encoder, reader]), loss_of, batches(schedule.steps), schedule, state_of(out, "words"))
    encoder.eval().requires_grad_(False).save(out, {"trained": "true"})
    with torch.no_grad():
        found = [errors_of(rows) for rows in batches(min(50, schedule.steps))]
    forget(out)
    return {name: float(torch.stack([errors[name] for errors in found]).mean()) for name in found[0]}


def spoken(ids: Tensor) -> Tensor:
    """bool [B, 77]: the tokens before the end of the text, but for the start token."""
    ended = (ids == END_OF_TEXT).cumsum(1) > 0
    ended[:, 0] = True
    return ~ended
