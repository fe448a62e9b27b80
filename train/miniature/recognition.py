"""Two networks that know people: the ArcFace face tower that FaceCLIP conditions on, and the judge, which is never a target.

The tower reads aligned crops and belongs to training. The judge reads whole pictures, is a convolutional network, and is
trained on other people, so that agreeing with it is no consequence of having been trained with the tower.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Conv2d, Linear

from faceclip import FaceCLIPConfig
from faceclip.checkpoint import read_state_dict, write_safetensors
from faceclip.model.face_tower import FaceTower

from .fitting import Schedule, fit
from .pictures import Pictures, shuffled

SCALE, MARGIN = 32.0, 0.3
JUDGE_SIZE = 64  # side in pixels of the pictures that the judge reads


class ArcFaceHead(nn.Module):
    """Additive angular margin (arXiv 1801.07698): the angle to a row's own person must be smaller by `MARGIN` radians."""

    def __init__(self, width: int, people: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(people, width) * 0.01)

    def forward(self, features: Tensor, identity: Tensor) -> Tensor:
        """Features [B, width] of any length, identity [B] -> mean cross-entropy."""
        cosine = (F.normalize(features, dim=-1) @ F.normalize(self.weight, dim=-1).T).clamp(-1 + 1e-6, 1 - 1e-6)
        own = F.one_hot(identity, len(self.weight)).bool()
        return F.cross_entropy(SCALE * torch.where(own, (cosine.acos() + MARGIN).cos(), cosine), identity)


class Judge(nn.Module):
    """Pictures -> unit vectors; the cosine of two says how much they show one person."""

    def __init__(self, width: int = 32, dim: int = 128):
        super().__init__()
        widths = (width, 2 * width, 4 * width, 4 * width)
        layers: list[nn.Module] = []
        for before, after in zip((3, *widths), widths, strict=False):
            layers += [Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU(), _Residual(after)]
        self.layers = nn.Sequential(*layers)
        self.out = Linear(widths[-1] * (JUDGE_SIZE // 16) ** 2, dim)
        self.norm = nn.BatchNorm1d(dim)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 or float in [0, 255], [B, 3, S, S] -> [B, dim], normalised."""
        x = images.float() / 127.5 - 1
        if x.shape[-1] != JUDGE_SIZE:
            x = F.interpolate(x, JUDGE_SIZE, mode="bilinear", antialias=True, align_corners=False)
        return F.normalize(self.norm(self.out(self.layers(x).flatten(1))), dim=-1)

    @torch.no_grad()
    def embed(self, images: Tensor, batch: int = 256) -> Tensor:
        """The same, in batches and in eval mode."""
        self.eval()
        return torch.cat([self(part) for part in images.split(batch)])


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.norm1 = Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


def train_face_tower(pictures: Pictures, schedule: Schedule, out: Path) -> list[float]:
    """Train the mini preset's face tower on aligned crops; write it as `--init-face` reads it."""
    people = pictures.people()
    config = FaceCLIPConfig.preset("mini").branches["l"].face
    torch.manual_seed(schedule.seed)
    tower, head = FaceTower(config), ArcFaceHead(config.classes, int(people.identity.max()) + 1)
    for place in (1, 3):  # frozen wherever FaceCLIP uses it, but here it learns; names and buffers are the same
        tower.feature[place] = nn.BatchNorm1d(tower.feature[place].weight.shape[0], eps=2e-5)  # pyright: ignore
    tower.train()

    def loss_of(rows: Tensor) -> Tensor:
        crops = people.crops[rows].float() / 255
        if torch.rand(()) < 0.5:
            crops = crops.flip(-1)
        crops = (crops * (0.8 + 0.4 * torch.rand(len(rows), 1, 1, 1))).clamp(0, 1)
        return head(tower(crops)[0], people.identity[rows])

    rows = shuffled(len(people), schedule.batch, schedule.steps, schedule.seed)
    losses = fit("face tower", [*tower.parameters(), *head.parameters()], loss_of, rows, schedule)
    write_safetensors(out, dict(tower.state_dict()), {"format": "arcface", "made_by": "train.miniature.recognition"})
    return losses


def train_judge(pictures: Pictures, schedule: Schedule, out: Path) -> list[float]:
    """Train the judge on whole pictures of people that no other network has seen."""
    people = pictures.people()
    torch.manual_seed(schedule.seed)
    judge = Judge().train()
    head = ArcFaceHead(judge.norm.num_features, int(people.identity.max()) + 1)

    def loss_of(rows: Tensor) -> Tensor:
        images = people.images[rows].float()
        if torch.rand(()) < 0.5:
            images = images.flip(-1)
        return head(judge(images + 6 * torch.randn_like(images)), people.identity[rows])

    rows = shuffled(len(people), schedule.batch, schedule.steps, schedule.seed)
    losses = fit("judge", [*judge.parameters(), *head.parameters()], loss_of, rows, schedule)
    write_safetensors(out, dict(judge.state_dict()), {"format": "judge", "made_by": "train.miniature.recognition"})
    return losses


def load_judge(path: Path) -> Judge:
    """A judge that `train_judge` wrote, in eval mode."""
    judge = Judge()
    judge.load_state_dict(read_state_dict(path))
    return judge.eval().requires_grad_(False)
