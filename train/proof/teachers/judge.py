"""The judge: a network that says how much two pictures show one person, and is never a target of training.

It reads whole pictures: one half finds the face's five landmarks, the other recognises what is around them.
It is a convolutional network trained on other people than the face tower, so that agreeing with it is no
consequence of having been trained with the tower.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Conv2d, Linear

from faceclip.checkpoint import read_state_dict
from faceclip.face.align import ARCFACE_112

SIZE = 64
"""Side in pixels of the picture that landmarks are found in, and of the crop that is recognised."""
MARGIN = 1.25
"""How much more the crop shows than ArcFace's template: hair, too, tells people apart."""


class Judge(nn.Module):
    """Pictures -> unit vectors; the cosine of two says how much they show one person."""

    def __init__(self, width: int = 32, dim: int = 128):
        super().__init__()
        self.finder = _layers(width * 3 // 4)
        self.landmarks = Linear(_features(width * 3 // 4), 10)
        self.layers = _layers(width)
        self.out = Linear(_features(width), dim)
        self.norm = nn.BatchNorm1d(dim)

    def find(self, images: Tensor) -> Tensor:
        """uint8 or float in [0, 255], [B, 3, S, S] -> landmarks [B, 5, 2] in sides of the picture, ArcFace's order."""
        x = images.float() / 127.5 - 1
        if x.shape[-1] != SIZE:
            x = F.interpolate(x, SIZE, mode="bilinear", antialias=True, align_corners=False)
        return 0.5 + self.landmarks(self.finder(x)).unflatten(1, (5, 2))

    def recognise(self, images: Tensor, landmarks: Tensor) -> Tensor:
        """Pictures as above and their landmarks -> [B, dim], normalised."""
        return F.normalize(self.norm(self.out(self.layers(aligned(images.float() / 127.5 - 1, landmarks)))), dim=-1)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 or float in [0, 255], [B, 3, S, S] -> [B, dim], normalised."""
        return self.recognise(images, self.find(images))

    @torch.no_grad()
    def embed(self, images: Tensor, batch: int = 256) -> Tensor:
        """The same, in batches and in eval mode."""
        self.eval()
        return torch.cat([self(part) for part in images.split(batch)])


def aligned(images: Tensor, landmarks: Tensor) -> Tensor:
    """Crops [B, 3, `SIZE`, `SIZE`] in which landmarks [B, 5, 2] (in sides of
    the picture) lie nearest to ArcFace's template."""
    template = torch.tensor(ARCFACE_112, dtype=torch.float32, device=images.device)
    template = (template / 112 - 0.5) * (2 / MARGIN)  # [-1, 1] over the crop
    points = landmarks.float() * 2 - 1
    centre, goal = points.mean(1, keepdim=True), template.mean(0)
    # A turn and a stretch, as one complex number: the least squares of the template's points to the picture's.
    z, w = torch.view_as_complex((template - goal).contiguous()), torch.view_as_complex((points - centre).contiguous())
    factor = (w * z.conj()).sum(1) / z.abs().square().sum()
    turn = torch.stack([factor.real, -factor.imag, factor.imag, factor.real], dim=-1).unflatten(-1, (2, 2))
    shift = centre[:, 0] - turn @ goal
    grid = F.affine_grid(torch.cat([turn, shift[..., None]], dim=-1), [len(images), 3, SIZE, SIZE], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def load_trained_judge(path: Path) -> Judge:
    """A judge that `train_judge` wrote, in eval mode."""
    judge = Judge()
    judge.load_state_dict(read_state_dict(path))
    return judge.eval().requires_grad_(False)


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.norm1 = Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


def _layers(width: int) -> nn.Sequential:
    """[B, 3, `SIZE`, `SIZE`] -> [B, `_features(width)`]."""
    widths = (width, 2 * width, 4 * width, 4 * width)
    layers: list[nn.Module] = []
    for before, after in zip((3, *widths), widths, strict=False):
        layers += [Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU(), _Residual(after)]
    return nn.Sequential(*layers, nn.Flatten())


def _features(width: int) -> int:
    return 4 * width * (SIZE // 16) ** 2
