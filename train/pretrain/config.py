"""The settings of pretraining."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from ..frozen.config import TowerConfig
from ..run.config import ConfigError, RunConfig


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TowerConfig, RunConfig):
    """Stage 1: the fusion module and the projections around it learn the
    joint representation (paper, section 3.3, eq. 3)."""

    command: ClassVar[str] = "train.pretrain"

    data: str
    """Shards with photographs, captions and aligned faces (a folder, a
    pattern or a URL), from `python -m train.prepare`."""
    guided: str = ""
    """Shards with pictures and captions alone, for the guided rows; none if empty."""
    guided_fraction: float = 0.1
    """The paper's lambda: share of rows that are guided image-text pairs with no face. The paper does not give its
    value. 0 asks for none; without --guided there are none, which at size sdxl has to be asked for."""
    features: Path | None = None
    """Cache of frozen features written by `python -m train.cache pretrain`; without it teachers run at every step."""
    guided_features: Path | None = None
    """The same for the guided rows."""
    loss: Literal["infonce", "siglip"] = "infonce"
    """Contrastive loss: symmetric InfoNCE (paper, eq. 3) or pairwise sigmoid with a bias."""
    terms: tuple[Literal["image", "identity", "text"], ...] = ("image", "identity", "text")
    """Loss terms that take part: L1 is image, L2 adds identity, L3 (the paper's choice) adds text."""
    reader_processes: int = 0
    """Processes per rank that read and decode samples ahead, instead of `workers` threads, which share one core's
    worth of Python: for faces that run live, at a few thousand rows a second and GPU. 0 starts none."""
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
        if self.reader_processes < 0:
            raise ConfigError(f"reader_processes is {self.reader_processes}; it is a number of processes, 0 for none.")
        if not self.terms:
            raise ConfigError("terms is empty: choose at least one of image, identity, text.")
        if not self.teacher and self.features is None:
            raise ConfigError("There is no image target: name a teacher, or give features from `python -m train.cache pretrain`.")
