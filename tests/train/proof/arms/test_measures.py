"""The linear probe: it finds what is there, however small, and nothing where there is nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from faceclip.metrics import measure_identity_map
from train.proof.arms.measures import linear_probe

PEOPLE, PICTURES, OWN, OTHER = 60, 8, 6, 20
LABELS = [person for person in range(PEOPLE) for _ in range(PICTURES)]


def purity(features: Tensor) -> float:
    return measure_identity_map(features, LABELS, 5).purity


def representations(seed: int, amplitude: float) -> tuple[Tensor, Tensor]:
    """Who is shown [N, 6], and vectors [N, 26] that mix that with something ten times as far spread."""
    draw = torch.Generator().manual_seed(seed)
    who = torch.randn(PEOPLE, OWN, generator=draw)[LABELS]
    caption = 10 * torch.randn(len(who), OTHER, generator=draw)
    turn = torch.linalg.qr(torch.randn(OWN + OTHER, OWN + OTHER, generator=torch.Generator().manual_seed(0)))[0]
    return who, torch.cat([amplitude * who, caption], dim=1) @ turn


def test_the_probe_finds_identity_that_neighbours_do_not_show() -> None:
    who, seen = representations(1, amplitude=1.0)
    _, unseen = representations(2, amplitude=1.0)
    assert purity(unseen) < 0.1
    assert purity(linear_probe(seen, who, unseen)) > 0.95


def test_the_probe_finds_nothing_where_there_is_nothing() -> None:
    who, seen = representations(1, amplitude=0.0)
    _, unseen = representations(2, amplitude=0.0)
    assert purity(linear_probe(seen, who, unseen)) < 0.05
