"""Draw the people in `models/people`: photos to try the mini model with, of people that it was not trained on.

    python scripts/draw_people.py [FOLDER]        (default: models/people of this repository)

They are drawn at 512 px, four times as large as the pictures that the
model learned from, for the face detector to find them.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from train.proof.plan import MINI
from train.synthetic.people import traits
from train.synthetic.portrait import Portrait, World

SIZE = 512
WORLD = World(0, SIZE, studio=True)
"""The mini model's."""


def chosen() -> dict[str, int]:
    """Name of the file -> which of the held-out people: the first, and the
    one whose traits are farthest from theirs.

    The rule looks at nothing that the model makes of them.
    """
    numbers = range(MINI.people, MINI.people + MINI.held_out_people)
    everybody = np.stack([traits(WORLD.person(number)) for number in numbers])
    return {"ada": 0, "ben": int(np.linalg.norm(everybody - everybody[0], axis=1).argmax())}


def photo_of(number: int) -> Portrait:
    """A held-out person in the first of their scenes that a passport office
    might accept, without anything on the head."""
    person = MINI.people + number
    scenes = (WORLD.scene(WORLD.scene_number(person, k)) for k in range(100))
    scene = next(scene for scene in scenes if not scene.turn and not scene.mood)
    return WORLD.portrait_from(WORLD.person(person), replace(scene, headwear="", glasses="", scarf=""))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draw the people to try the mini model with.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).resolve().parent.parent / "models" / "people")
    folder = parser.parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, number in chosen().items():
        path = folder / f"{name}.jpg"
        Image.fromarray(photo_of(number).image).save(path, quality=92)
        print(f"{path}  {path.stat().st_size / 2**10:.0f} KiB")


if __name__ == "__main__":
    main()
