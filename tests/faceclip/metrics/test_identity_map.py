"""The identity map on spaces that separate people, and on one that does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from faceclip.metrics import MetricError, draw_identity_map, measure_identity_map


def clusters(spread: float, people: int = 6, each: int = 20) -> tuple[torch.Tensor, list[int]]:
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(people, 32, generator=random)
    rows = centres.repeat_interleave(each, 0) + spread * torch.randn(people * each, 32, generator=random)
    return rows, [i for i in range(people) for _ in range(each)]


def test_separate_people_are_pure() -> None:
    found = measure_identity_map(*clusters(0.05))
    assert found.purity == 1
    assert found.silhouette > 0.9
    assert (found.rows, found.people, found.neighbours) == (120, 6, 5)


def test_noise_is_at_chance() -> None:
    rows = torch.randn(1200, 32, generator=torch.Generator().manual_seed(0))
    found = measure_identity_map(rows, [i % 6 for i in range(1200)])
    assert found.chance == pytest.approx(199 / 1199)
    assert found.purity == pytest.approx(found.chance, abs=0.03)
    assert found.silhouette == pytest.approx(0, abs=0.02)


def test_length_does_not_matter_only_direction() -> None:
    rows, people = clusters(0.5)
    scaled = rows * torch.rand(len(rows), 1, generator=torch.Generator().manual_seed(1)).add(0.1)
    first, second = measure_identity_map(scaled, people), measure_identity_map(rows, people)
    assert first.purity == second.purity
    assert first.silhouette == pytest.approx(second.silhouette, abs=1e-6)


def test_the_picture_keeps_people_apart(tmp_path: Path) -> None:
    rows, people = clusters(0.05, people=4, each=10)
    places = draw_identity_map(rows, people, tmp_path / "map.png", title="four people")
    assert places.shape == (40, 2)
    found = measure_identity_map(torch.from_numpy(places), people, 3)
    assert found.rows == 40
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1) + np.eye(40) * 1e9
    assert (np.array(people)[distance.argmin(1)] == people).all()
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.width > 500
        colours = picture.convert("RGB").getcolors(1 << 24)
    assert colours is not None
    assert len(colours) > 4
    again = draw_identity_map(rows, people, tmp_path / "again.png")
    assert np.array_equal(places, again), "the seed decides"


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MetricError, match=r"\[3, 2\] and 2"):
        measure_identity_map(torch.ones(3, 2), [0, 1])
    with pytest.raises(MetricError, match="two people or more"):
        measure_identity_map(torch.ones(3, 2), [0, 0, 0])
    with pytest.raises(MetricError, match="One person has 2 rows; for 5 neighbours each person needs 6"):
        measure_identity_map(torch.ones(9, 2), [0] * 7 + [1] * 2)
    with pytest.raises(MetricError, match="map of 4 rows"):
        draw_identity_map(torch.ones(4, 2), [0, 1, 0, 1], tmp_path / "map.png")
