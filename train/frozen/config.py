"""Which frozen towers training starts from: what pretraining and its cache of features are told alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

RANDOM = "random"
"""In place of a file: weights drawn from the seed, asked for by name."""


@dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """The towers of one branch: where their weights come from, and what they are where no file is named."""

    branch: Literal["l", "g"] = "l"
    """Which FaceCLIP to train: `l` (CLIP-L) or `g` (CLIP-bigG). SDXL takes
    both: train each, then `python -m train.join`."""
    size: Literal["sdxl", "mini", "tiny"] = "sdxl"
    """Encoder preset whose branch is trained."""
    init_encoder: Path | None = None
    """FaceCLIP encoder file to start from, instead of the separate towers below."""
    init_clip: str = ""
    """CLIP checkpoint in open_clip's format (a file), with both towers: the start of the text tower and the image
    teacher. A file cannot tell whether its weights use quick GELU or plain GELU. `l` computes quick GELU, which
    OpenAI's and MetaCLIP's ViT-L use; LAION's do not: they would load and be wrong. `random` asks for random
    weights; at size sdxl nothing else does."""
    init_face: Path | None = None
    """InsightFace ArcFace ViT checkpoint (a file): the frozen face tower. `random`
    asks for random weights; at size sdxl nothing else does."""
    teacher: str = ""
    """open_clip name of the image teacher's architecture (`ViT-L-14-quickgelu`, `ViT-bigG-14-quickgelu`), or `mini`.
    It has the activation that the weights of --init-clip were trained with. Empty: no teacher, so that
    pretraining needs a cache of image embeddings, and a cache holds none."""
    seed: int = 0
    """Everything random follows from it; a cache takes that of its training
    run. Towers without a file start from it."""

    @property
    def clip_file(self) -> str:
        """The CLIP checkpoint, empty for none."""
        return "" if self.init_clip == RANDOM else self.init_clip

    @property
    def face_file(self) -> Path | None:
        """The ArcFace checkpoint, None for none."""
        return None if self.init_face == Path(RANDOM) else self.init_face
