"""The shapes of a FaceT5 encoder, and of the text encoders that its released file carries along."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from ..config import FaceTowerConfig, FusionConfig, depth, heads_of, require_buildable

METADATA_KEY = "facet5_config"


@dataclass(frozen=True)
class T5Config:
    """T5 v1.1's encoder, as far as the released file's shapes depend on it."""

    width: int = 4096
    heads: int = 64
    head_width: int = 64
    feedforward: int = 10240
    layers: int = 24
    vocabulary: int = 32128
    buckets: int = 32


@dataclass(frozen=True)
class CLIPConfig:
    """CLIP-L's text encoder, as far as the released file's shapes depend on it."""

    width: int = 768
    feedforward: int = 3072
    layers: int = 12
    vocabulary: int = 49408
    context: int = 77


@dataclass(frozen=True)
class _Own:
    """The numbers of a FaceT5Config that are in no part of it."""

    width: int
    context: int


@dataclass(frozen=True)
class FaceT5Config:
    """FaceT5's own part: a face tower, and the fusion module between it and a T5 of this `width`."""

    width: int = 4096
    context: int = 512
    face: FaceTowerConfig = field(default_factory=FaceTowerConfig)
    fusion: FusionConfig = field(default_factory=lambda: FusionConfig(face_attention="own value"))

    @staticmethod
    def preset(name: str) -> FaceT5Config:
        """`"flux"` (the release) or `"tiny"` (the golden test model). Raises ValueError for another name."""
        if name not in PRESETS:
            raise ValueError(f"There is no FaceT5 preset called {name!r}. Choose one of: {', '.join(PRESETS)}.")
        return PRESETS[name].own

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> FaceT5Config:
        """Inverse of `to_json`. Raises ValueError for JSON that does not describe an encoder, or none that can be built."""
        try:
            parts = json.loads(text)
            face, fusion = FaceTowerConfig(**parts.pop("face")), FusionConfig(**parts.pop("fusion"))
            config = FaceT5Config(**parts, face=face, fusion=fusion)
        except (TypeError, KeyError, AttributeError, RecursionError, json.JSONDecodeError) as error:
            raise ValueError(f"This is not the configuration of a FaceT5 encoder ({error}): {str(text)[:200]}") from error
        own = _Own(config.width, config.context)
        require_buildable("this FaceT5", {"own": own, "face": face, "fusion": fusion}, heads_of(face, fusion, own.width))
        return config

    def require_depths(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise ValueError unless tensors of these names have as many layers as this configuration.

        To be asked before anything is built: numbers in a file's metadata could keep that busy forever.
        """
        for what, stem, layers in (
            ("face layers", "face_encoder.blocks.", self.face.layers),
            ("fusion layers", "fuser.encoder.fusion_layers.", self.fusion.layers),
        ):
            if (found := depth(shapes, stem)) != layers:
                raise ValueError(
                    f"Its configuration does not fit its tensors: it is told to have {what} {layers}, found {found}."
                )


@dataclass(frozen=True)
class ReleaseConfig:
    """All of `face_t5_encoder.pt`: FaceT5's own part, T5 and CLIP-L."""

    own: FaceT5Config
    t5: T5Config
    clip: CLIPConfig


PRESETS: Mapping[str, ReleaseConfig] = {
    "flux": ReleaseConfig(FaceT5Config(), T5Config(), CLIPConfig()),
    "tiny": ReleaseConfig(
        FaceT5Config(width=64, face=FaceTowerConfig(width=32, layers=2, heads=4, classes=16)),
        T5Config(width=64, heads=4, head_width=8, feedforward=96, layers=2),
        CLIPConfig(width=48, feedforward=96, layers=2),
    ),
}
