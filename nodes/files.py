"""Which files the loaders offer, and start with.

The released ones where any of them is, the mini ones where nothing else is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .folders import MODELS, UNET_FOLDERS, VAES, list_files

_MINI = "faceclip_mini_"


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    released: its name in the release. mine: whether a file's name is that of such a file of FaceCLIP's.
    tooltip: which files it may be, and where they lie.
    """

    folders: Sequence[str]
    released: str
    mine: Callable[[str], bool]
    tooltip: str


def _encoder(name: str) -> bool:
    return "encoder" in name and "t5" not in name


ENCODER = Kind(
    [MODELS],
    "face_clip_encoder.pt",
    _encoder,
    "face_clip_encoder.pt, or what `faceclip convert` made of it, in models/faceclip.",
)
UNET = Kind(
    UNET_FOLDERS,
    "unet.pt",
    lambda name: name.startswith("unet") or ("faceclip" in name and "unet" in name),
    "FaceCLIP's unet.pt, a safetensors of it, or an SDXL checkpoint, in models/faceclip, models/diffusion_models or "
    "models/checkpoints.",
)
VAE = Kind(
    [VAES],
    "sdxl_vae.safetensors",
    lambda name: "sdxl" in name,
    "sdxl_vae.safetensors, or another VAE for SDXL, in models/vae.",
)
FACET5 = Kind(
    [MODELS],
    "face_t5_encoder.pt",
    lambda name: "t5" in name,
    "face_t5_encoder.pt, or what `faceclip convert` made of it, in models/faceclip.",
)


@dataclass(frozen=True)
class Choice:
    """What a combo offers, and starts with. Any, since ComfyUI's own hints leave out the None that its combos take."""

    names: list[str]
    default: Any


def listed(kind: Kind) -> Choice:
    """The files of ComfyUI's folders for this kind, and the one to start with; names tell, not contents.

    That is the release's, else another of its kind.
    Where one of the release's files is there and this is not, it is the missing one: what runs names its address.
    Only where nothing of FaceCLIP is, it is the mini file; FaceT5 has none.
    """
    names = list_files(kind.folders)
    found = _own(kind, names)
    if not found and (kind is FACET5 or any(_own(other, list_files(other.folders)) for other in (ENCODER, UNET))):
        return Choice([*names, kind.released], kind.released)
    mini = [name for name in names if _MINI in name and (kind.mine(name.lower()) or kind is VAE)]
    return Choice(names, next(iter([*found, *mini, *names]), None))


def _own(kind: Kind, names: Sequence[str]) -> list[str]:
    """Those of a kind that are not mini's, the release's own first."""
    own = [name for name in names if kind.mine(name.lower()) and _MINI not in name]
    return sorted(own, key=lambda name: name != kind.released)
