"""FaceCLIP's pretraining loss (paper, equation 3): image, identity and
text terms, each contrastive against a frozen tower."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .contrastive import UNIQUE, GatheredKeys, frozen_key_info_nce, gather_keys, sigmoid_loss

__all__ = [
    "FaceCLIPLoss",
    "FaceCLIPLossConfig",
    "LossParts",
    "SentTargets",
    "Targets",
    "caption_labels",
    "frozen_key_info_nce",
    "sigmoid_loss",
]

INITIAL_LOG_SCALE = math.log(1 / 0.07)  # the release's
MAXIMAL_LOG_SCALE = math.log(100)
INITIAL_BIAS = -10.0  # the release's; for kind "siglip"
_SHORTEST = 1e-12  # length that a projection is taken to have at least, as in torch's normalize


@dataclass(frozen=True)
class FaceCLIPLossConfig:
    """Which terms of equation 3 are on (the paper's ablation L1, L2, L3 adds
    them in this order) and how they are computed.

    The paper does not say whether the terms share a temperature; here every term learns its own.
    """

    image: bool = True  # L1: text projection against CLIP's image embedding
    identity: bool = True  # L2: identity projection against ArcFace's class token
    text: bool = True  # L3: text projection against CLIP's text embedding
    kind: Literal["infonce", "siglip"] = "infonce"  # the paper's softmax loss, or SigLIP's sigmoid loss
    chunk: int = 1024  # rows of logits held at a time

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("All terms of the loss are off; switch on at least one of image, identity and text.")
        if self.kind not in ("infonce", "siglip"):
            raise ValueError(f"There is no loss called {self.kind!r}. Choose 'infonce' (the paper's) or 'siglip'.")

    @property
    def terms(self) -> list[str]:
        return [name for name in ("image", "identity", "text") if getattr(self, name)]


@dataclass(frozen=True, eq=False)
class Targets:
    """What b rows are trained towards. None for a target whose term is off.

    image, text: CLIP's embeddings [b, dt] of picture and caption; identity: ArcFace's class token [b, 512]. Of
    any length: they are normalised here, and travel between ranks in the dtype they have.
    has_face: [b] bool, False for guided rows; identity_label, caption_label: [b] int64, equal where person or
    caption are known to be the same on any rank, else -1 (see `caption_labels`).
    """

    image: Tensor | None
    identity: Tensor | None
    text: Tensor | None
    has_face: Tensor
    identity_label: Tensor
    caption_label: Tensor


@dataclass(frozen=True, eq=False)
class SentTargets:
    """Targets, normalised, on their way to all ranks (`FaceCLIPLoss.start`): the keys of each term that is on."""

    keys: dict[str, GatheredKeys]


class LossParts(NamedTuple):
    """The sum and its terms: scalars, equal on all ranks; None for a term that is off."""

    total: Tensor
    image: Tensor | None
    identity: Tensor | None
    text: Tensor | None


class FaceCLIPLoss(nn.Module):
    """Equation 3 over all ranks' rows. Owns a log scale per term (and a bias, for "siglip"): keep it in fp32.

    Guided rows leave the identity term: their zero faces share one target, so that they would be false negatives
    of one another. Nor are rows negatives of each other in a term where what distinguishes them is the same: the
    person in the identity term, the caption in the text term, both in the image term.
    Call it outside DistributedDataParallel and average its own parameters' gradients (`gradcache_step` does it).
    """

    def __init__(self, config: FaceCLIPLossConfig | None = None, group: dist.ProcessGroup | None = None):
        super().__init__()
        self.config = config or FaceCLIPLossConfig()
        self.group = group
        self.log_scale = nn.ParameterDict({name: torch.tensor(INITIAL_LOG_SCALE) for name in self.config.terms})
        with_bias = self.config.terms if self.config.kind == "siglip" else []
        self.bias = nn.ParameterDict({name: torch.tensor(INITIAL_BIAS) for name in with_bias})

    @torch.no_grad()
    def start(self, targets: Targets) -> SentTargets:
        """Send this rank's targets to all ranks and return at once: they travel
        while the encoder computes, and `forward` waits.

        All ranks call it at the same place among their collectives. Raises ValueError for a target that is missing.
        """
        labels = {"image": _both(targets), "identity": targets.identity_label, "text": targets.caption_label}
        keys = {}
        for name in self.config.terms:
            target = getattr(targets, name)
            if target is None:
                raise ValueError(
                    f"The {name} term of the loss is on, but the batch has no {name} target. Cache it, or switch it off."
                )
            valid = targets.has_face if name == "identity" else None
            normalised = F.normalize(_in_full_precision(target), dim=-1).to(target.dtype)
            keys[name] = gather_keys(normalised, valid=valid, duplicates=labels[name], group=self.group)
        return SentTargets(keys)

    def forward(self, text_like: Tensor, identity_like: Tensor, targets: Targets | SentTargets) -> LossParts:
        """Projections e->t [b, dt] and e->r [b, 512], of any length, against targets, sent already or not -> the loss.

        Kept for the backward pass, beside what `contrastive` names: each projection normalised, once, in fp32, and
        its lengths. Raises ValueError for a target that is missing or does not have its projection's shape.
        """
        self._clamp_scales()
        sent = targets if isinstance(targets, SentTargets) else self.start(targets)
        text, identity = (_Normalize.apply(_in_full_precision(x)) for x in (text_like, identity_like))
        parts = {name: self._term(name, identity if name == "identity" else text, sent.keys[name]) for name in self.config.terms}
        return LossParts(torch.stack(list(parts.values())).sum(), *(parts.get(name) for name in LossParts._fields[1:]))

    def _term(self, name: str, queries: Tensor, keys: GatheredKeys) -> Tensor:
        scale = self.log_scale[name].exp()
        if self.config.kind == "infonce":
            return frozen_key_info_nce(queries, keys, scale, chunk=self.config.chunk)
        return sigmoid_loss(queries, keys, scale, self.bias[name], chunk=self.config.chunk)

    @torch.no_grad()
    def _clamp_scales(self) -> None:
        # The parameter itself, as CLIP does: clamping its use would leave no gradient to come back by.
        for log_scale in self.log_scale.values():
            log_scale.clamp_(max=MAXIMAL_LOG_SCALE)


def caption_labels(captions: Sequence[str]) -> Tensor:
    """[b] int64 >= 0: a label per caption that needs no other rank to be the same there (63 bits of a hash)."""
    digests = [blake2b(caption.encode(), digest_size=8).digest() for caption in captions]
    return torch.tensor([int.from_bytes(digest, "big") >> 1 for digest in digests], dtype=torch.int64)


def _both(targets: Targets) -> Tensor:
    """[b] labels equal where caption and person are: same label, or no face
    in either. -1 where one of them is unknown."""
    identity, caption = targets.identity_label, targets.caption_label
    person = torch.where(targets.has_face, identity + 1, 0)
    unknown = (caption < 0) | (targets.has_face & (identity < 0))
    mixed = (caption * 6364136223846793005 + person) & (2**63 - 1)  # int64 wraps around: a hash of the pair
    return mixed.masked_fill(unknown, UNIQUE)


class _Normalize(torch.autograd.Function):
    """x [b, d] -> x / |x|. Keeps its result, which the losses keep anyway, and the lengths.

    Autograd would keep x as well.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        length = x.norm(dim=-1, keepdim=True).clamp_min(_SHORTEST)
        unit = x / length
        ctx.save_for_backward(unit, length)
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        unit, length = ctx.saved_tensors
        (pull,) = grad_outputs
        return (pull - unit * (unit * pull).sum(-1, keepdim=True)) / length


def _in_full_precision(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
