"""The settings of pretraining."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from ..run.config import ConfigError, RunConfig


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(RunConfig):
    """Stage 1: the fusion module and the projections around it learn the joint representation (paper, section 3.3, eq. 3)."""

    command: ClassVar[str] = "train.pretrain"

    data: str
    """Shards with photographs, captions and aligned faces (a folder, a pattern or a URL), from `python -m train.prepare`."""
    guided: str = ""
    """Shards with pictures and captions alone, for the guided rows; none if empty."""
    guided_fraction: float = 0.1
    """The paper's lambda: share of rows that are guided image-text pairs with no face. The paper does not give its value."""
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
    """open_clip name of the image teacher's architecture (`ViT-L-14-quickgelu`, `ViT-bigG-14-quickgelu`), or `mini`. Empty:
    features must come from the cache."""
    features: Path | None = None
    """Cache of frozen features written by `python -m train.cache pretrain`; without it teachers run at every step."""
    guided_features: Path | None = None
    """The same for the guided rows."""
    loss: Literal["infonce", "siglip"] = "infonce"
    """Contrastive loss: symmetric InfoNCE (paper, eq. 3) or pairwise sigmoid with a bias."""
    terms: tuple[Literal["image", "identity", "text"], ...] = ("image", "identity", "text")
    """Loss terms that take part: L1 is image, L2 adds identity, L3 (the paper's choice) adds text."""
    dropout: float = 0.1
    """Dropout of the fusion module (release: 0.1)."""
    held_out: str = ""
    """Shards to measure retrieval, identity and zero-shot accuracy on during training; none if empty."""
    evaluate_every: int = 0
    """Steps between measurements on the held-out shards; 0 is only at the end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.guided_fraction < 1:
            raise ConfigError(f"guided_fraction is {self.guided_fraction}; it is a share of the batch in [0, 1).")
        if not self.terms:
            raise ConfigError("terms is empty: choose at least one of image, identity, text.")
        if not self.teacher and self.features is None:
            raise ConfigError("There is no image target: name a teacher, or give features from `python -m train.cache pretrain`.")
