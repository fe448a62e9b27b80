"""How the face tower that FaceCLIP conditions on and the judge are
trained: by ArcFace's margin loss, on different people."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faceclip import FaceCLIPConfig
from faceclip.checkpoint import write_safetensors
from faceclip.model.face_tower import FaceTower

from ..fitting import Schedule, fit, forget, state_of
from .judge import Judge
from .pictures import Pictures, shuffled

SCALE, MARGIN = 32.0, 0.3
MOVE = 0.02
"""How far crops are moved in training, as a share of their half side, and how much larger, smaller and turned
they are: detectors are not exact, as the world's landmarks are."""
JITTER = 0.02
"""Of the judge's landmarks in training, in sides of the picture."""


class ArcFaceHead(nn.Module):
    """Additive angular margin (arXiv 1801.07698): the angle to a row's own
    person must be smaller by `MARGIN` radians."""

    def __init__(self, width: int, people: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(people, width) * 0.01)

    def forward(self, features: Tensor, identity: Tensor) -> Tensor:
        """Features [B, width] of any length, identity [B] -> mean cross-entropy."""
        cosine = (F.normalize(features, dim=-1) @ F.normalize(self.weight, dim=-1).T).clamp(-1 + 1e-6, 1 - 1e-6)
        own = F.one_hot(identity, len(self.weight)).bool()
        return F.cross_entropy(SCALE * torch.where(own, (cosine.acos() + MARGIN).cos(), cosine), identity)


def train_face_tower(pictures: Pictures, schedule: Schedule, out: Path, traits: float = 0.0) -> list[float]:
    """Train the mini preset's face tower on aligned crops; write it as `--init-face` reads it.

    With `traits`, a weight, the first 29 numbers of the class token also learn to be the person's traits, each
    with a mean of 0 and a deviation of 1: telling people apart keeps of a face what differs most, this keeps all
    that the world has.
    """
    people = pictures.people()
    config = FaceCLIPConfig.preset("mini").branches["l"].face
    torch.manual_seed(schedule.seed)
    tower, head = FaceTower(config), ArcFaceHead(config.classes, int(people.identity.max()) + 1)
    targets = (people.traits - people.traits.mean(0)) / people.traits.std(0).clamp(min=1e-6)
    for place in (1, 3):  # frozen wherever FaceCLIP uses it, but here it learns; names and buffers are the same
        tower.feature[place] = nn.BatchNorm1d(tower.feature[place].weight.shape[0], eps=2e-5)  # pyright: ignore
    learner = nn.ModuleList([tower.train(), head]).to(people.device)

    def loss_of(rows: Tensor) -> Tensor:
        crops = moved(people.crops[rows].float() / 255)
        if traits == 0 and torch.rand(()) < 0.5:  # a mole has its side
            crops = crops.flip(-1)
        change = 0.06 if traits else 0.2  # skin has its tone
        crops = (crops * (1 - change + 2 * change * torch.rand(len(rows), 1, 1, 1, device=crops.device))).clamp(0, 1)
        token = tower(crops)[0]
        loss = head(token, people.identity[rows])
        return loss + traits * F.mse_loss(token[:, : targets.shape[1]], targets[rows]) if traits else loss

    rows = shuffled(len(people), schedule.batch, schedule.steps, schedule.seed)
    losses = fit("face tower", learner, loss_of, rows, schedule, state_of(out, "tower"))
    write_safetensors(out, dict(tower.state_dict()), {"format": "arcface", "made_by": "train.proof.teachers.recognition"})
    forget(out)
    return losses


def train_judge(pictures: Pictures, schedule: Schedule, out: Path) -> list[float]:
    """Train the judge on people that no other network has seen. Needs `landmarks`.

    Half of the crops follow the true landmarks, half those found; half of the pictures lose the finer half of
    their detail, as what an autoencoder makes does.
    """
    people = pictures.people()
    torch.manual_seed(schedule.seed)
    judge = Judge().train()
    head = ArcFaceHead(judge.norm.num_features, int(people.identity.max()) + 1)
    learner = nn.ModuleList([judge, head]).to(people.device)

    def drawn(*shape: int) -> Tensor:
        return torch.rand(shape, device=people.device)

    def loss_of(rows: Tensor) -> Tensor:
        images, landmarks = people.images[rows].float(), people.landmarks[rows]
        if torch.rand(()) < 0.5:
            images, landmarks = images.flip(-1), mirrored(landmarks)
        images = torch.where(drawn(len(rows), 1, 1, 1) < 0.5, images, blurred(images))
        images = (images * (0.85 + 0.3 * drawn(len(rows), 1, 1, 1)) + 6 * torch.randn_like(images)).clamp(0, 255)
        found = judge.find(images)
        used = torch.where(drawn(len(rows), 1, 1) < 0.5, landmarks, found.detach())
        used = used + JITTER * torch.randn_like(used[:, :1]) + JITTER / 2 * torch.randn_like(used)
        return head(judge.recognise(images, used), people.identity[rows]) + 20 * (found - landmarks).abs().mean()

    rows = shuffled(len(people), schedule.batch, schedule.steps, schedule.seed)
    losses = fit("judge", learner, loss_of, rows, schedule, state_of(out, "judge"))
    write_safetensors(out, dict(judge.state_dict()), {"format": "judge", "made_by": "train.proof.teachers.recognition"})
    forget(out)
    return losses


def moved(crops: Tensor) -> Tensor:
    """Crops [B, 3, H, W], each shifted, scaled and turned a little."""

    def drawn(height: int) -> Tensor:
        return torch.randn(len(crops), height, 1, device=crops.device)

    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]], device=crops.device)
    turn = torch.eye(2, device=crops.device) + MOVE * quarter * drawn(1)
    affine = torch.cat([turn * (1 + MOVE * drawn(1)), MOVE * drawn(2)], dim=-1)
    grid = F.affine_grid(affine, list(crops.shape), align_corners=False)
    return F.grid_sample(crops, grid, mode="bilinear", padding_mode="border", align_corners=False)


def mirrored(landmarks: Tensor) -> Tensor:
    """Landmarks of the mirrored picture: left and right change places."""
    swapped = landmarks[:, [1, 0, 2, 4, 3]]
    return torch.stack([1 - swapped[..., 0], swapped[..., 1]], dim=-1)


def blurred(images: Tensor) -> Tensor:
    """Pictures [B, 3, S, S] at half their resolution, at their size."""
    small = F.interpolate(images, scale_factor=0.5, mode="area")
    return F.interpolate(small, images.shape[-1], mode="bilinear", align_corners=False)
