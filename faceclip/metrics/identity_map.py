"""The identity map (paper, Fig. 2): do representations of one person lie together? Two numbers, and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import MetricError, require


@dataclass(frozen=True)
class IdentityMap:
    """How well a space tells people apart. Judge by the numbers: t-SNE draws clusters into noise, too."""

    purity: float
    """Mean share of a row's k nearest others that are the same person's: 1
    is separate people, `chance` is no identity."""
    chance: float
    silhouette: float
    """-1 to 1, of cosine distances; about 0 where people overlap (Rousseeuw 1987)."""
    neighbours: int
    rows: int
    people: int


def measure_identity_map(features: Tensor, people: Sequence[str | int], neighbours: int = 5) -> IdentityMap:
    """Purity and silhouette of `features` [N, D] by cosine, row i showing `people[i]`.

    Raises:
        MetricError: numbers that do not match, fewer than two people, or a person with too few rows for `neighbours`.
        MetricUnavailableError: scikit-learn is not installed.
    """
    labels = _labels(features, people)
    counts = np.bincount(labels)
    if counts.min() <= neighbours:
        raise MetricError(
            f"One person has {counts.min()} rows; for {neighbours} neighbours each person needs {neighbours + 1}. Bring more "
            "pictures per person, or ask for fewer neighbours."
        )
    require("sklearn", "scikit-learn", "The silhouette")
    from sklearn.metrics import silhouette_score

    unit = F.normalize(features.double(), dim=-1).cpu()
    similarity = unit @ unit.T
    similarity.fill_diagonal_(-torch.inf)
    nearest = similarity.topk(neighbours, dim=1).indices.numpy()
    chance = float((counts * (counts - 1)).sum() / (len(labels) * (len(labels) - 1)))
    return IdentityMap(
        purity=float((labels[nearest] == labels[:, None]).mean()),
        chance=chance,
        silhouette=float(silhouette_score(unit.numpy(), labels, metric="cosine")),
        neighbours=neighbours,
        rows=len(labels),
        people=len(counts),
    )


def draw_identity_map(
    features: Tensor, people: Sequence[str | int], path: str | Path, *, title: str = "", seed: int = 0
) -> np.ndarray:
    """Lay `features` [N, D] out in the plane by t-SNE, write the picture, and return the places [N, 2].

    Raises:
        MetricError: numbers that do not match, or fewer than five rows.
        MetricUnavailableError: scikit-learn or matplotlib is not installed.
    """
    labels = _labels(features, people)
    if len(labels) < 5:
        raise MetricError(f"A map of {len(labels)} rows shows nothing; bring five or more.")
    require("sklearn", "scikit-learn", "The identity map")
    require("matplotlib", "matplotlib", "The identity map")
    from matplotlib.figure import Figure
    from sklearn.manifold import TSNE

    unit = F.normalize(features.double(), dim=-1).cpu().numpy()
    perplexity = min(30.0, (len(labels) - 1) / 3)
    places = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(unit)

    figure = Figure(figsize=(7, 7), layout="constrained")
    axes = figure.add_subplot()
    names = list(dict.fromkeys(people))
    # Two people of ten share a colour when there are more than ten: the marks then tell them apart.
    for number, name in enumerate(names):
        rows = labels == number
        mark = "osD^vPX*<>"[number // 10 % 10]
        axes.scatter(places[rows, 0], places[rows, 1], s=28, marker=mark, color=f"C{number % 10}", label=str(name))
    if len(names) <= 20:
        axes.legend(fontsize=8, loc="best")
    axes.set(xticks=[], yticks=[], title=title)
    figure.savefig(path, dpi=120)
    return places


def _labels(features: Tensor, people: Sequence[str | int]) -> np.ndarray:
    """[N] int: people numbered in the order they first appear."""
    if features.ndim != 2 or len(features) != len(people):
        raise MetricError(f"Features [N, D] and N people are needed; found {list(features.shape)} and {len(people)}.")
    numbers = {name: number for number, name in enumerate(dict.fromkeys(people))}
    if len(numbers) < 2:
        raise MetricError("An identity map needs two people or more.")
    return np.array([numbers[name] for name in people])
