"""Which frozen towers training starts from: what pretraining and its cache of features are told alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """The towers of one branch: where their weights come from, and what they are where no file is named."""

    branch: Literal["l", "g"] = "l"
    """Which FaceCLIP to train: `l` (CLIP-L) or `g` (CLIP-bigG). SDXL takes both: train each, then `python -m train.join`."""
    size: Literal["sdxl", "mini", "tiny"] = "sdxl"
    """Encoder preset whose branch is trained."""
    init_encoder: Path | None = None
    """FaceCLIP encoder file to start from, instead of the separate towers below."""
    init_clip: str = ""
    """CLIP checkpoint in open_clip's format (a file), with both towers: the start of the text tower and the image teacher. A
    file cannot tell whether its weights use quick GELU or plain GELU. `l` computes quick GELU, which OpenAI's and MetaCLIP's
    ViT-L use; LAION's do not: they would load and be wrong."""
    init_face: Path | None = None
    """InsightFace ArcFace ViT checkpoint (a file): the frozen face tower."""
    teacher: str = ""
    """open_clip name of the image teacher's architecture (`ViT-L-14-quickgelu`, `ViT-bigG-14-quickgelu`), or `mini`. It has the
    activation that the weights of --init-clip were trained with. Empty: no teacher, so that pretraining needs a cache of image
    embeddings, and a cache holds none."""
    seed: int = 0
    """Everything random follows from it; a cache takes that of its training run. Towers without a file start from it."""
