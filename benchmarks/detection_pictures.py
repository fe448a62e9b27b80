"""Pictures to measure face detectors on: photographs that installed
packages ship, labelled by hand, and others made of them.

Two sets that share no picture: `choose` is what a detector's thresholds may be chosen on, `report` is what is
reported. `detection_faces.json` has for each file below `site-packages` its human faces, and those that may
be found or not (drawn, dolls, statues, animals, blurred bystanders): [x, y, size] of the face's middle and
longer side as shares of width, height and long side.
"""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

LABELS = Path(__file__).with_name("detection_faces.json")
SetName = Literal["choose", "report"]
_GREY = (120, 120, 120)
_SOURCES = 6
"""Photographs of each set that turned, blurred, covered and small ones are made of."""
_DRAWN, _NO_FACE = 6, 6
TURNS = (60, 90, 180, 270)


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture, and where faces are in it."""

    name: str
    kind: str
    image: np.ndarray
    """uint8 [H, W, 3]."""
    faces: tuple[tuple[float, float, float], ...]
    """(x, y, longer side) in pixels of each face that is to be found."""
    optional: tuple[tuple[float, float, float], ...] = ()
    """Of each that may be found or not."""
    turned: int = 0
    """Degrees counter-clockwise by which the photograph of the same `source` was turned."""
    source: str = ""


def pictures(which: SetName) -> list[Picture]:
    """All pictures of a set that can be had here: what is not installed is left out."""
    shipped = list(_shipped(which))
    sources = [picture for picture in shipped if len(picture.faces) == 1 and not picture.optional and _share(picture) > 0.12]
    made = [made for source in sources[:_SOURCES] for made in _made(source)]
    return [*shipped, *made, *_collages(sources), *_drawn(which)]


def _shipped(which: SetName) -> Iterator[Picture]:
    packages = Path(sysconfig.get_path("purelib"))
    for name, (faces, optional) in json.loads(LABELS.read_text(encoding="utf-8"))[which].items():
        if (packages / name).is_file():
            with Image.open(packages / name) as opened:
                image = np.asarray(opened.convert("RGB"))
            height, width = image.shape[:2]

            def placed(
                rows: Sequence[Sequence[float]], w: int = width, h: int = height
            ) -> tuple[tuple[float, float, float], ...]:
                return tuple((x * w, y * h, size * max(w, h)) for x, y, size in rows)

            kind = "photo" if faces else "no face"
            yield Picture(name, kind, image, placed(faces), placed(optional), source=name)


def _share(picture: Picture) -> float:
    return picture.faces[0][2] / max(picture.image.shape[:2])


def _made(source: Picture) -> Iterator[Picture]:
    """The same person turned, blurred, covered, and small."""
    photo, (x, y, size) = Image.fromarray(source.image), source.faces[0]
    for degrees in TURNS:
        turned = photo.rotate(degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=_GREY)
        at = (complex(x, y) - complex(*photo.size) / 2) * np.exp(-1j * np.radians(degrees)) + complex(*turned.size) / 2
        name, face = f"{source.name} turned {degrees}", (float(at.real), float(at.imag), size)
        yield Picture(name, "turned", np.asarray(turned), (face,), turned=degrees, source=source.name)
    blurred = photo.filter(ImageFilter.GaussianBlur(size / 20))
    yield Picture(f"{source.name} blurred", "blurred", np.asarray(blurred), source.faces, source=source.name)
    for part, top, bottom in (("mouth", 0.12, 0.5), ("eyes", -0.25, -0.02)):
        covered = photo.copy()
        box = (x - size / 2, y + top * size, x + size / 2, y + bottom * size)
        ImageDraw.Draw(covered).rectangle(box, fill=(225, 232, 238) if part == "mouth" else (15, 15, 15))
        yield Picture(f"{source.name} {part} covered", "covered", np.asarray(covered), source.faces, source=source.name)
    scale = 28 / size
    small = photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (1024, 768), _GREY)
    canvas.paste(small, (520, 300))
    face = (520 + x * scale, 300 + y * scale, 28.0)
    yield Picture(f"{source.name} small", "small", np.asarray(canvas), (face,), source=source.name)


def _collages(sources: Sequence[Picture]) -> Iterator[Picture]:
    """Four photographs on one picture."""
    cell = 400
    for first in range(0, len(sources) - 3, 4):
        canvas, faces = Image.new("RGB", (2 * cell, 2 * cell), _GREY), []
        for place, source in enumerate(sources[first : first + 4]):
            left, top = place % 2 * cell, place // 2 * cell
            scale = cell / max(source.image.shape[:2])
            photo = Image.fromarray(source.image)
            canvas.paste(photo.resize((round(photo.width * scale), round(photo.height * scale))), (left, top))
            x, y, size = source.faces[0]
            faces.append((left + x * scale, top + y * scale, size * scale))
        yield Picture(f"collage {first // 4}", "collage", np.asarray(canvas), tuple(faces))


def _drawn(which: SetName) -> Iterator[Picture]:
    """People and objects drawn by `train.synthetic`, and noise."""
    from train.synthetic.objects import CLASSES
    from train.synthetic.portrait import World

    world = World(41 if which == "choose" else 42, 512)
    random = np.random.default_rng(world.seed)
    for number in range(_DRAWN):
        portrait = world.portrait(world.person(number), world.scene_number(number, 0))
        middle, eyes = portrait.landmarks.mean(0), portrait.landmarks[1] - portrait.landmarks[0]
        face = (float(middle[0]), float(middle[1]), 2.4 * float(np.linalg.norm(eyes)))
        yield Picture(f"drawn person {number}", "drawn", portrait.image, (face,))
    for number in range(_NO_FACE):
        name = CLASSES[int(random.integers(len(CLASSES)))]
        yield Picture(f"drawn {name} {number}", "no face", world.object_picture(name, number).image, ())
    yield Picture("noise", "no face", random.integers(0, 256, (512, 512, 3), dtype=np.uint8), ())
