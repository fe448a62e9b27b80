"""Pictures of one colour, told apart on the screen by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

A_COLOUR, B_COLOUR = (200, 60, 40), (40, 60, 200)


def paint(path: Path, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((320, 240, 3), colour, np.uint8)).save(path)
