"""The proof's figures, made from results and kept pictures: PNG files below a folder."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from faceclip.checkpoint import read_state_dict
from faceclip.metrics import draw_identity_map

from ..arms.generation import Casting
from ..plan import BATCHES, LAMBDAS, SHARES, Arm, arms, batch_arm, lambda_arm, share_arm
from ..teachers.quality import reconstruct
from ..workshop import Workshop
from .results import IDENTITY, MEASURES, NAMES, Results, collect

FIGURES = {
    "table3": (("L1", "L2", "L3"), "Table 3: loss terms"),
    "table1": (("L3", "no guided"), "Table 1: guided data"),
    "figure2": (("L3", "diffusion only", "untrained"), "Fig. 2: pretraining or diffusion loss alone"),
    "variants": (("L3", "plain", "fused token"), "Variants of the encoder"),
}
SHEET_PEOPLE = 6
PANELS = (*MEASURES, *IDENTITY[1:])


def draw_all(shop: Workshop, folder: Path) -> list[Path]:
    """Write every figure for which there are numbers; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    results = collect(shop)
    note = "" if shop.plan.name == "full" else f" ({shop.plan.name} plan: no evidence)"
    for name, (names, title) in FIGURES.items():
        _bars(results, names, title + note).savefig(folder / f"{name}.png", dpi=110)
    _sweeps(results, note).savefig(folder / "sweeps.png", dpi=110)
    shown = [arm for arm in arms() if arm.finetuned and arm.world == "main"]
    if mapped := [arm for arm in shown if _joint(shop, arm).is_file()]:
        _identity_maps(shop, mapped, note).savefig(folder / "identity_maps.png", dpi=80)
    if drawn := [arm for arm in shown if _pictures(shop, arm).is_file()]:
        _contact_sheet(shop, drawn, note).savefig(folder / "contact_sheet.png", dpi=100)
    return sorted(folder.glob("*.png"))


def _bars(results: Results, names: Sequence[str], title: str) -> Figure:
    """One panel per measure that there are numbers of, one bar per arm with its interval, and the seeds as points."""
    known = [measure for measure in PANELS if any(results.estimate(name, measure).seeds for name in names)]
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    for axes, measure in zip(figure.subplots(1, max(1, len(known)), squeeze=False)[0], known, strict=False):
        for place, name in enumerate(names):
            estimate = results.estimate(name, measure)
            if math.isnan(estimate.mean):
                axes.text(place, 0, "not\nmeasured", ha="center", va="bottom", fontsize=7, color="grey")
                continue
            half = estimate.high - estimate.mean if estimate.known else 0.0
            axes.bar(place, estimate.mean, 0.7, yerr=half, capsize=4, color=f"C{place}", alpha=0.75)
            seeds = list(results.values[name][measure].values())
            axes.plot([place] * len(seeds), seeds, ".", color="black", markersize=4)
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.set_xlim(-0.6, len(names) - 0.4)
        axes.set_xticks(range(len(names)), [name.replace(" ", "\n") for name in names], fontsize=7)
        axes.set_title(NAMES[measure], fontsize=9)
    figure.suptitle(title)
    return figure


def _sweeps(results: Results, note: str) -> Figure:
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for measure in ("zero_shot", "knn", "knn_probe"):
        _line(left, results, LAMBDAS, [lambda_arm(x) for x in LAMBDAS], measure, NAMES[measure])
        _line(middle, results, BATCHES, [batch_arm(x) for x in BATCHES], measure, NAMES[measure])
    for measure in ("knn", "knn_probe"):
        for kind in ("diffusion only", "L3"):
            _line(right, results, SHARES, [share_arm(x, kind) for x in SHARES], measure, f"{NAMES[measure]}, {kind}")
    left.set(xlabel="lambda, the share of guided rows")
    middle.set(xlabel="batch, in multiples of L3's")
    right.set(xlabel="identity share of the world")
    for axes in (left, middle, right):
        axes.set_ylim(0, 1.02)
        axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    figure.suptitle("Sweeps" + note)
    return figure


def _line(axes: Any, results: Results, at: Sequence[float], names: Sequence[str], measure: str, label: str) -> None:
    found = [results.estimate(name, measure) for name in names]
    half = [estimate.high - estimate.mean if estimate.known else 0.0 for estimate in found]
    axes.errorbar(at, [estimate.mean for estimate in found], yerr=half, marker="o", capsize=3, label=label)


def _identity_maps(shop: Workshop, shown: Sequence[Arm], note: str) -> Figure:
    """t-SNE of the joint representation of ten held-out people, one panel per arm, first seed (paper, Fig. 2)."""
    figure = Figure(figsize=(14, 7.2), layout="constrained")
    results = collect(shop)
    panels = list(figure.subplots(2, math.ceil(len(shown) / 2), squeeze=False).flat)
    for axes in panels[len(shown) :]:
        axes.axis("off")
    for axes, arm in zip(panels, shown, strict=False):
        kept = read_state_dict(_joint(shop, arm))
        people = kept["people"].tolist()
        with tempfile.TemporaryDirectory() as folder:
            places = draw_identity_map(kept["joint"], people, Path(folder) / "map.png")
        for number, person in enumerate(dict.fromkeys(people)):
            rows = np.array(people) == person
            axes.scatter(places[rows, 0], places[rows, 1], s=14, color=f"C{number % 10}")
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"{arm.name}: kNN {results.values[arm.name]['knn'][0]:.2f}", fontsize=10)
    figure.suptitle("Joint representation of ten held-out people, t-SNE; a colour is a person" + note)
    return figure


def _contact_sheet(shop: Workshop, shown: Sequence[Arm], note: str) -> Figure:
    """Held-out people in rows: reference crop, the real scene, the same
    after the autoencoder, what each arm makes of it."""
    casting = Casting.of(shop, crops=True)
    people = casting.people
    count = min(SHEET_PEOPLE, len(casting.reference))
    rows = [place * shop.plan.scenes for place in range(count)]
    real = people.images[casting.scenes[:count, 0]]
    size = (shop.plan.size, shop.plan.size)
    references = [np.array(Image.fromarray(_hwc(crop)).resize(size)) for crop in people.crops[casting.reference[:count]]]
    columns: dict[str, list[np.ndarray]] = {
        "reference": references,
        "real": [_hwc(image) for image in real],
        "autoencoder": [_hwc(image) for image in reconstruct(shop.teacher("autoencoder"), real)[1]],
    }
    for arm in shown:
        made = torch.from_numpy(np.load(_pictures(shop, arm)))
        columns[arm.name] = [_hwc(image) for image in made[rows]]
    figure = Figure(figsize=(1.25 * len(columns), 1.3 * count + 0.6), layout="constrained")
    grid = figure.subplots(count, len(columns), squeeze=False)
    for column, (name, pictures) in enumerate(columns.items()):
        grid[0, column].set_title(name.replace(" ", "\n"), fontsize=9)
        for row, picture in enumerate(pictures):
            grid[row, column].imshow(picture)
            grid[row, column].set(xticks=[], yticks=[])
    figure.suptitle("Held-out people in held-out scenes, first seed" + note, fontsize=10)
    return figure


def _joint(shop: Workshop, arm: Arm) -> Path:
    return shop.run(arm, 0, "measure") / "joint.safetensors"


def _pictures(shop: Workshop, arm: Arm) -> Path:
    return shop.run(arm, 0, "generate") / "pictures.npy"


def _hwc(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()
