"""Draw the people in `models/people`: photos to try the mini model with, of people that it was not trained on.

    python scripts/draw_people.py [FOLDER]        (default: models/people of this repository)

They are drawn at 512 px, four times as large as the pictures that the
model learned from, for the face detector to find them.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from PIL import Image

from train.proof.plan import FULL
from train.synthetic.portrait import Portrait, World

SIZE = 512
PEOPLE = {"ada": 4, "ben": 5}
"""Name of the file -> which of the held-out people: two who look different."""
STEADY = 0.25
"""The most that a head may be turned, in radians."""


def photo_of(number: int) -> Portrait:
    """A held-out person in the first of their scenes that a passport office
    might accept, without anything on the head."""
    world = World(0, SIZE)  # the main world of `train.proof`
    person = FULL.people + number
    scenes = (world.scene(world.scene_number(person, k)) for k in range(100))
    scene = next(scene for scene in scenes if scene.framing == "close-up" and abs(scene.yaw) < STEADY)
    return world.portrait_from(world.person(person), replace(scene, headwear="", glasses="", scarf=""))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draw the people to try the mini model with.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).resolve().parent.parent / "models" / "people")
    folder = parser.parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, number in PEOPLE.items():
        path = folder / f"{name}.jpg"
        Image.fromarray(photo_of(number).image).save(path, quality=92)
        print(f"{path}  {path.stat().st_size / 2**10:.0f} KiB")


if __name__ == "__main__":
    main()
