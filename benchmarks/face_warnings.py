"""How often the warnings of `faceclip.face.assess` are right:
photographs, the same blurred and covered, heads of known turn.

    python benchmarks/face_warnings.py

The photographs are both sets of `detection_pictures.py`; the heads are
drawn by `train.synthetic`, eight people at each angle.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import torch
from detection_pictures import pictures

from faceclip.face import align_face, assess, detect_faces, load_detector
from faceclip.face.quality import FaceQuality

DEGREES = (-50, -40, -30, -20, -10, 0, 10, 20, 30, 40, 50)
PEOPLE = 8


def main() -> None:
    torch.set_num_threads(1)
    detector = load_detector("yunet")

    def look(image: np.ndarray) -> FaceQuality | None:
        faces = detect_faces(detector, image)
        return assess(align_face(image, faces[0]), faces[0]) if faces else None

    warned: dict[str, Counter[str]] = defaultdict(Counter)
    counts: Counter[str] = Counter()
    for picture in [*pictures("choose"), *pictures("report")]:
        if (
            len(picture.faces) == 1
            and picture.kind in ("photo", "blurred", "covered", "small")
            and (found := look(picture.image))
        ):
            counts[picture.kind] += 1
            warned[picture.kind].update(text.split(":")[0] for text in found.warnings)
    print("| pictures | small | blurred | turned | covered | cut off |\n|---|---|---|---|---|---|")
    for kind, total in counts.items():
        shares = " | ".join(f"{warned[kind][name]} of {total}" for name in ("small", "blurred", "turned", "covered", "cut off"))
        print(f"| {kind} | {shares} |")
    print("\n| head turned by | found | measured, degrees | warned of |\n|---|---|---|---|")
    for degrees in DEGREES:
        seen = [found for image in _heads(degrees) if (found := look(image))]
        yaws = [found.yaw for found in seen]
        told = sum(any(text.startswith("turned") for text in found.warnings) for found in seen)
        print(f"| {degrees} | {len(seen)} of {PEOPLE} | {np.mean(yaws):.0f} +- {np.std(yaws):.0f} | {told} |")


def _heads(degrees: float) -> list[np.ndarray]:
    """Close-ups of different people whose heads look so far aside."""
    from train.synthetic.portrait import World

    world = World(7, 384)
    images = []
    for number in range(PEOPLE):
        plain = {"framing": "close-up", "side": "centre", "headwear": "", "glasses": "", "scarf": ""}
        scene = replace(world.scene(100 + number), yaw=math.radians(degrees), pitch=0.0, roll=0.0, **plain)
        images.append(world.portrait_from(world.person(number), scene).image)
    return images


if __name__ == "__main__":
    main()
