"""The frozen image teacher of pretraining: CLIP's vision tower, whose
embedding the joint representation is pulled to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faceclip import FaceCLIPConfig
from faceclip.config import TextTowerConfig

from .towers import InitError, read_clip

_ADVICE = (
    "FaceCLIP's teachers are MetaCLIP's: ViT-L-14-quickgelu for `l` (width 768), ViT-bigG-14-quickgelu for `g` (width 1280). "
    "LAION's bigG, trained with plain GELU, is ViT-bigG-14."
)
MINI = "mini"
MINI_VISION = {"layers": (1, 1, 1, 1), "width": 16, "head_width": 32, "image_size": 64}
"""A ResNet: with few pictures it learns sooner than a vision transformer."""


class ImageTeacher(nn.Module):
    """Pictures uint8 [B, 3, `size`, `size`] -> CLIP image embeddings [B, width], normalised. Frozen."""

    def __init__(self, visual: nn.Module, width: int, size: int, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.visual = visual
        self.width = width
        self.size = size
        self._normalisation = (mean, std)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        weight = next(self.visual.parameters())
        mean, std = (torch.tensor(values, device=weight.device).view(1, 3, 1, 1) for values in self._normalisation)
        x = ((images.to(weight.device).float() / 255 - mean) / std).to(weight.dtype)
        return F.normalize(self.visual(x).float(), dim=-1)


def load_teacher(name: str, weights: str | Path, width: int) -> ImageTeacher:
    """The vision tower `name` of open_clip with the weights of a CLIP checkpoint, for targets of `width`.

    The name decides the activation, which no file tells: with the wrong one the embeddings look right and are
    not. MetaCLIP's and OpenAI's towers were trained with quick GELU (`ViT-bigG-14-quickgelu`), LAION's with plain
    GELU (`ViT-bigG-14`). `mini` is a small one; without weights it is random, the same everywhere. Raises
    InitError for a tower of another width, an unknown name, or a checkpoint that does not fit.
    """
    import open_clip

    if name == MINI:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model: Any = mini_clip(_mini_text(width))
    elif name in open_clip.list_models():
        model = open_clip.create_model(name)
    else:
        raise InitError(f"open_clip has no model {name!r}. {_ADVICE}")
    visual = model.visual
    if visual.output_dim != width:
        raise InitError(
            f"The teacher {name} gives embeddings of width {visual.output_dim}, this FaceCLIP needs {width}. {_ADVICE}"
        )
    if weights:
        _load(visual, Path(weights), name)
    elif name != MINI:
        raise InitError(f"The teacher {name} has no weights: name its checkpoint with --init-clip.")
    size = visual.image_size[0] if isinstance(visual.image_size, tuple) else visual.image_size
    return ImageTeacher(visual, width, size, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)


def mini_clip(text: TextTowerConfig) -> Any:
    """An untrained CLIP (open_clip's class) around a text tower of that shape, with the mini teacher's vision tower."""
    import open_clip

    tower = {"width": text.width, "heads": text.heads, "layers": text.layers}
    return open_clip.CLIP(text.width, MINI_VISION, tower, quick_gelu=text.activation == "quick_gelu")  # type: ignore[arg-type]


def _mini_text(width: int) -> TextTowerConfig:
    branches = FaceCLIPConfig.preset("mini").branches.values()
    for branch in branches:
        if branch.width == width:
            return branch.text
    raise InitError(
        f"The teacher mini gives embeddings of width {', '.join(str(b.width) for b in branches)}, this FaceCLIP needs {width}."
    )


def _load(visual: nn.Module, path: Path, name: str) -> None:
    own = visual.state_dict()
    found = {n.removeprefix("visual."): t for n, t in read_clip(path).items() if n.startswith("visual.")}
    wrong = [n for n in own if n not in found or found[n].shape != own[n].shape]
    unknown = sorted(found.keys() - own.keys())
    if wrong:
        what = f"visual.{wrong[0]} of shape {list(found[wrong[0]].shape)}" if wrong[0] in found else f"no visual.{wrong[0]}"
        what += f", expected {list(own[wrong[0]].shape)}"
    elif unknown:
        what = f"{len(unknown)} tensors that this one has not, among them visual.{unknown[0]}"
    if wrong or unknown:
        raise InitError(
            f"{path} is not the checkpoint of the teacher {name}: it has {what}. "
            "Use the CLIP checkpoint of that architecture, with both towers, in open_clip's format."
        )
    visual.load_state_dict(found)
