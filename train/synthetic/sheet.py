"""Pictures of a world to look at, and a number for how much of them identity explains."""

from __future__ import annotations

import numpy as np
from PIL import Image

from .objects import CLASSES
from .portrait import World


def contact_sheet(world: World, people: int = 7, pictures: int = 6, first: int = 0) -> np.ndarray:
    """uint8 [H, W, 3]: a row for each person, pictures and then two aligned crops, and a row of objects below."""
    size = world.size
    rows = []
    for number in range(first, first + people):
        portraits = [world.portrait(world.person(number), world.scene_number(number, k)) for k in range(pictures)]
        crops = [_shrink(portrait.face, size) for portrait in portraits[:2]]
        rows.append(np.hstack([*(portrait.image for portrait in portraits), *crops]))
    step = max(1, len(CLASSES) // (pictures + 2))
    objects = [world.object_picture(CLASSES[k * step % len(CLASSES)], k).image for k in range(pictures + 2)]
    return np.vstack([*rows, np.hstack(objects)])


def _shrink(face: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(face).resize((size, size), Image.Resampling.BOX))


def explained_by_identity(world: World, people: int = 12, scenes: int = 12) -> dict[str, float]:
    """How much of the pixels' variance goes with the person, with the scene,
    and with the pair of them: shares that sum to 1.

    Everyone is shown in every scene. `person` is the variance of the person's mean picture, `scene` that of the
    scene's; `both` is what is left: a person's looks in one scene, where the face lies elsewhere than in another.
    """
    pictures = np.stack(
        [[world.portrait(world.person(p), s).image.reshape(-1) for s in range(scenes)] for p in range(people)]
    ).astype(np.float64)
    overall = pictures.mean((0, 1))
    total = ((pictures - overall) ** 2).mean()
    person = ((pictures.mean(1) - overall) ** 2).mean() / total
    scene = ((pictures.mean(0) - overall) ** 2).mean() / total
    return {"person": float(person), "scene": float(scene), "both": float(1 - person - scene)}
