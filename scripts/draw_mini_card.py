"""Draw the pictures of the mini model's card: what it makes of held-out
people, and how likeness grew in training.

    python scripts/draw_mini_card.py RUNS [--before PICTURES.npy] [FOLDER]       (default folder: docs/images)

RUNS is the folder of `python -m train.mini --out RUNS`, all stages done. PICTURES.npy has what an earlier
model made of the same people and scenes, uint8 [N, 3, H, W], as RUNS/mini/person.npy is. The people are the
first of the hundred.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from train.mini.command import Recipe
from train.proof.arms.generation import Casting
from train.proof.plan import MINI
from train.proof.workshop import Workshop

PEOPLE, SIDE, GAP, LABEL = 8, 128, 4, 150
QUALITY = 88


def draw_people(rows: Sequence[tuple[str, np.ndarray]]) -> Image.Image:
    """A column for each person; `rows` of a label and uint8 [PEOPLE, 3, SIDE, SIDE]."""
    page = Image.new("RGB", (LABEL + PEOPLE * (SIDE + GAP), len(rows) * (SIDE + GAP)), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(15)
    for row, (label, pictures) in enumerate(rows):
        top = row * (SIDE + GAP)
        draw.multiline_text((6, top + SIDE // 2 - 18), label, fill="black", font=font)
        for column, picture in enumerate(pictures):
            page.paste(Image.fromarray(picture.transpose(1, 2, 0)), (LABEL + column * (SIDE + GAP), top))
    return page


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draw the pictures of the mini model's card.")
    parser.add_argument("runs", type=Path)
    parser.add_argument("--before", type=Path, help="what an earlier model made: .npy")
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).resolve().parent.parent / "docs" / "images")
    options = parser.parse_args(argv)
    shop = Recipe(Workshop(options.runs, MINI)).measuring
    made = options.runs / "mini"
    casting = Casting.of(shop)
    first = slice(0, PEOPLE * shop.plan.scenes, shop.plan.scenes)  # one scene of each
    rows = [("the photo", casting.people.images[casting.reference[:PEOPLE]].numpy())]
    if options.before:
        rows.append(("mini before", np.load(options.before)[first]))
    rows.append(("mini", np.load(made / "person.npy")[first]))
    rows.append(("mini, of the\nperson before", np.load(made / "shuffled.npy")[first]))
    rows.append(("the scene\nas drawn", np.load(made / "real.npy")[first]))
    draw_people(rows).save(options.folder / "mini_people.jpg", quality=QUALITY)
    curve = json.loads((made / "stages" / "curve.json").read_text())["found"]
    ceiling = json.loads((made / "stages" / "measure.json").read_text())["found"]["real"]["face"]
    draw_curve(curve, ceiling, options.folder / "mini_likeness.png")


def draw_curve(curve: Sequence[dict[str, float]], ceiling: float, path: Path) -> None:
    """Likeness against samples, as shares of the ceiling."""
    drawing = Figure(figsize=(7, 3.6), dpi=110, layout="tight")
    axes = drawing.subplots()
    samples = [point["samples"] / 1000 for point in curve]
    axes.plot(samples, [point["face"] / ceiling for point in curve], marker="o", label="to the person")
    axes.plot(samples, [point["shuffled"] / ceiling for point in curve], marker="o", label="to the other 99")
    axes.set_xlabel("thousand samples that the UNet has seen")
    axes.set_ylabel("likeness / ceiling")
    axes.set_ylim(min(0.0, *(point["shuffled"] / ceiling for point in curve)) - 0.02, 1.0)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    drawing.savefig(path)


if __name__ == "__main__":
    main()
