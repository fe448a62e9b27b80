"""The shapes of a FaceCLIP encoder: named presets, and how a configuration is told from a file.

A checkpoint fixes almost everything by the shapes of its tensors. What shapes cannot tell (numbers of heads,
activations) comes from the file's metadata when our own converter wrote it, else from the preset whose shapes
it has.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

Activation = Literal["quick_gelu", "gelu"]
FaceAttention = Literal["deformable", "plain", "own value"]

METADATA_KEY = "faceclip_config"
_LARGEST = 1 << 20  # of any number in a configuration
_CHOICES: Mapping[str, tuple[str, ...]] = {"activation": get_args(Activation), "face_attention": get_args(FaceAttention)}


@dataclass(frozen=True)
class TextTowerConfig:
    """CLIP's causal text transformer."""

    width: int
    layers: int
    heads: int
    activation: Activation
    vocabulary: int = 49408
    context: int = 77


@dataclass(frozen=True)
class FaceTowerConfig:
    """ArcFace's ViT on a 112 x 112 crop; `classes` is the width of its class token."""

    width: int = 768
    layers: int = 24
    heads: int = 8
    classes: int = 512
    image: int = 112
    patch: int = 9

    @property
    def grid(self) -> int:
        """Patches along one side (12): the convolution's stride leaves the last pixels of a side unseen."""
        return self.image // self.patch


@dataclass(frozen=True)
class FusionConfig:
    """The fusion module (paper, Fig. 1c).

    `face_attention="plain"` is the paper's figure, `"deformable"`
    FaceCLIP-SDXL's release, `"own value"` FaceT5-FLUX's.
    """

    layers: int = 6
    cross_width: int = 1024
    cross_heads: int = 4
    text_heads: int = 4
    text_feedforward: int = 1024
    face_heads: int = 8
    face_points: int = 4
    face_feedforward: int = 2048
    face_attention: FaceAttention = "deformable"
    dropout: float = 0.1


@dataclass(frozen=True)
class BranchConfig:
    """One FaceCLIP branch: a text tower, the face tower, and the fusion module between them."""

    text: TextTowerConfig
    face: FaceTowerConfig = field(default_factory=FaceTowerConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)

    @property
    def width(self) -> int:
        """Width of the joint representation; the face stream is projected to the text tower's width."""
        return self.text.width


@dataclass(frozen=True)
class FaceCLIPConfig:
    """An encoder of one or two branches, keyed "l" and "g" as in the
    parameter names `face_clip_l.*`, `face_clip_g.*`."""

    branches: Mapping[str, BranchConfig]

    @property
    def width(self) -> int:
        """Width of the conditioning SDXL gets: the branches side by side (768 + 1280 = 2048)."""
        return sum(branch.width for branch in self.branches.values())

    @property
    def pooled_width(self) -> int:
        """Width of the pooled conditioning: that of the last branch (bigG's 1280)."""
        return list(self.branches.values())[-1].width

    def only(self, *names: str) -> FaceCLIPConfig:
        """The same encoder with some of its branches."""
        return FaceCLIPConfig({name: self.branches[name] for name in names})

    @staticmethod
    def preset(name: str) -> FaceCLIPConfig:
        """`"sdxl"` (the release), `"mini"` (the small model shipped with the pack) or `"tiny"` (the golden test model)."""
        if name not in PRESETS:
            raise ValueError(f"There is no FaceCLIP preset called {name!r}. Choose one of: {', '.join(PRESETS)}.")
        return PRESETS[name]

    def to_json(self) -> str:
        return json.dumps({name: asdict(branch) for name, branch in self.branches.items()})

    @staticmethod
    def from_json(text: str) -> FaceCLIPConfig:
        """Inverse of `to_json`. Raises ValueError for JSON that does not describe an encoder, or none that can be built."""
        try:
            config = FaceCLIPConfig(
                {
                    name: BranchConfig(
                        TextTowerConfig(**parts["text"]),
                        FaceTowerConfig(**parts["face"]),
                        FusionConfig(**parts["fusion"]),
                    )
                    for name, parts in json.loads(text).items()
                }
            )
        except (TypeError, KeyError, AttributeError, RecursionError, json.JSONDecodeError) as error:
            raise ValueError(f"This is not the configuration of a FaceCLIP encoder ({error}): {str(text)[:200]}") from error
        if not config.branches or not config.branches.keys() <= {"l", "g"}:
            raise ValueError(f"A FaceCLIP encoder has the branches l, g or both; this configuration has {list(config.branches)}.")
        for name, branch in config.branches.items():
            heads = [("text.heads", branch.width, branch.text.heads), *heads_of(branch.face, branch.fusion, branch.width)]
            parts = {"text": branch.text, "face": branch.face, "fusion": branch.fusion}
            require_buildable(f"branch {name}", parts, heads)
        return config

    def require_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise ValueError unless an encoder of this configuration has the
        widths and depths of tensors with these shapes.

        To be asked before the encoder is built: numbers in a file's metadata could keep that busy forever.
        """
        names = {name for name in ("l", "g") if f"face_clip_{name}.text_projection" in shapes}
        if names != self.branches.keys():
            raise ValueError(f"Its configuration tells of the branches {sorted(self.branches)}, its tensors of {sorted(names)}.")
        for name, branch in self.branches.items():
            found, expected = _measure(shapes, f"face_clip_{name}."), _expected(branch)
            if found != expected:
                wrong = next(what for what in found if found[what] != expected[what])
                raise ValueError(
                    f"Its configuration does not fit its tensors: branch {name} is told to have {wrong} {expected[wrong]}, "
                    f"found {found[wrong]}."
                )
            # A face tower that both branches share may be in the file once.
            towers = [depth(shapes, f"face_clip_{other}.face_encoder.blocks.") for other in (name, "l", "g")]
            if (layers := next(filter(None, towers), 0)) != branch.face.layers:
                raise ValueError(
                    f"Its configuration does not fit its tensors: branch {name} is told to have face layers "
                    f"{branch.face.layers}, found {layers}."
                )

    @staticmethod
    def from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> FaceCLIPConfig:
        """The configuration of an encoder whose tensors have these names and shapes.

        Raises ValueError when the widths and depths are no preset's: heads
        and activations cannot be told from shapes.
        """
        names = [name for name in ("l", "g") if f"face_clip_{name}.text_projection" in shapes]
        found = {name: _measure(shapes, f"face_clip_{name}.") for name in names}
        for preset in PRESETS.values():
            expected = {name: _expected(branch) for name, branch in preset.branches.items()}
            if found and all(found[name] == expected[name] for name in names):
                return preset.only(*names)
        raise ValueError(
            f"This FaceCLIP encoder has none of the known sizes {list(PRESETS)} and no configuration in its metadata. "
            f"Found {found}; expected for 'sdxl' { ({n: _expected(b) for n, b in PRESETS['sdxl'].branches.items()}) }."
        )


def heads_of(face: FaceTowerConfig, fusion: FusionConfig, width: int) -> list[tuple[str, int, int]]:
    """The heads of a face tower and of a fusion module of this `width`: name, what they divide, and how many."""
    return [
        ("face.heads", face.width, face.heads),
        ("fusion.cross_heads", fusion.cross_width, fusion.cross_heads),
        ("fusion.text_heads", width, fusion.text_heads),
        ("fusion.face_heads", width, fusion.face_heads),
    ]


def require_buildable(where: str, parts: Mapping[str, Any], heads: Iterable[tuple[str, int, int]]) -> None:
    """Raise ValueError for values of a wrong type or size, and for heads that do not divide what they attend over.

    where: whose the configuration is, for the message. parts: dataclasses
        by name. heads: name, width, and number of heads.
    """
    for part, config in parts.items():
        for key, value in asdict(config).items():
            if key in _CHOICES:
                sound = value in _CHOICES[key]
            elif key == "dropout":
                sound = type(value) in (int, float) and 0 <= value < 1
            else:
                sound = type(value) is int and 1 <= value <= _LARGEST
            if not sound:
                raise ValueError(f"The configuration of {where} has {part}.{key} = {str(value)[:40]!r}, which cannot be.")
        if isinstance(config, FaceTowerConfig) and config.patch > config.image:
            raise ValueError(f"The configuration of {where} has {part}.patch {config.patch} above {part}.image {config.image}.")
    for what, width, count in heads:
        if width % count:
            raise ValueError(f"The configuration of {where} has {what} = {count}, which does not divide the width {width}.")


def depth(shapes: Iterable[str], stem: str) -> int:
    """How many layers there are below `stem`, by the names of their tensors."""
    return len({name[len(stem) :].split(".")[0] for name in shapes if name.startswith(stem)})


def _measure(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> dict[str, int]:
    def size(name: str, axis: int) -> int:
        return (*shapes.get(prefix + name, ()), 0, 0)[axis]

    return {
        "text width": size("text_projection", 0),
        "text layers": depth(shapes, f"{prefix}transformer.resblocks."),
        "face width": size("face_patch_proj.weight", 1),
        "fusion layers": depth(shapes, f"{prefix}fuser.encoder.fusion_layers."),
        "fusion width": size("fuser.encoder.fusion_layers.0.attn.v_proj.weight", 0),
    }


def _expected(branch: BranchConfig) -> dict[str, int]:
    return {
        "text width": branch.text.width,
        "text layers": branch.text.layers,
        "face width": branch.face.width,
        "fusion layers": branch.fusion.layers,
        "fusion width": branch.fusion.cross_width,
    }


_TINY_FACE = FaceTowerConfig(width=32, layers=2, heads=4, classes=16)
_MINI_FACE = FaceTowerConfig(width=64, layers=4, heads=4, classes=64)
_MINI_FUSION = FusionConfig(cross_width=128, text_feedforward=128, face_feedforward=128)

PRESETS: Mapping[str, FaceCLIPConfig] = {
    "sdxl": FaceCLIPConfig(
        {
            "l": BranchConfig(TextTowerConfig(width=768, layers=12, heads=12, activation="quick_gelu")),
            "g": BranchConfig(TextTowerConfig(width=1280, layers=32, heads=20, activation="gelu")),
        }
    ),
    "mini": FaceCLIPConfig(
        {
            "l": BranchConfig(TextTowerConfig(32, layers=2, heads=4, activation="quick_gelu"), _MINI_FACE, _MINI_FUSION),
            "g": BranchConfig(TextTowerConfig(48, layers=3, heads=4, activation="gelu"), _MINI_FACE, _MINI_FUSION),
        }
    ),
    "tiny": FaceCLIPConfig(
        {
            "l": BranchConfig(TextTowerConfig(32, layers=2, heads=4, activation="quick_gelu"), _TINY_FACE),
            "g": BranchConfig(TextTowerConfig(48, layers=2, heads=4, activation="gelu"), _TINY_FACE),
        }
    ),
}
