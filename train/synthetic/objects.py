"""Guided data: pictures of one object each, with captions and without a face."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from . import things, travellers
from .canvas import to_bytes
from .captions import place_words
from .pen import Inks, Pen
from .places import EXTENT, PIXELS, START, paint_place
from .scenes import COLOURS, PLACES

_OWN_COLOUR = {"banana", "carrot", "cloud", "moon", "pizza", "sun", "tree"}
"""Classes that are always of the same colour, which captions therefore leave out."""
_PAINTERS: dict[str, Callable[[Pen, Inks], None]] = {
    "airplane": travellers.airplane,
    "apple": things.apple,
    "ball": things.ball,
    "balloon": travellers.balloon,
    "banana": things.banana,
    "bell": things.bell,
    "bicycle": travellers.bicycle,
    "bird": travellers.bird,
    "boat": travellers.boat,
    "book": things.book,
    "butterfly": travellers.butterfly,
    "cactus": things.cactus,
    "cake": things.cake,
    "candle": things.candle,
    "car": travellers.car,
    "carrot": things.carrot,
    "chair": things.chair,
    "clock": things.clock,
    "cloud": travellers.cloud,
    "cup": things.cup,
    "fish": travellers.fish,
    "flower": things.flower,
    "guitar": things.guitar,
    "heart": travellers.heart,
    "house": things.house,
    "ice cream": things.ice_cream,
    "key": things.key,
    "kite": travellers.kite,
    "lamp": things.lamp,
    "moon": travellers.moon,
    "mushroom": things.mushroom,
    "pizza": things.pizza,
    "rocket": travellers.rocket,
    "shoe": things.shoe,
    "star": travellers.star,
    "sun": travellers.sun,
    "table": things.table,
    "train": travellers.train,
    "tree": things.tree,
    "umbrella": things.umbrella,
}
CLASSES = tuple(_PAINTERS)
"""The 40 classes of objects."""
_COLOURS = [name for name in COLOURS if name not in ("grey", "black")]
_WORDINGS = (
    "a photo of {what}",
    "a picture of {what}",
    "{what}",
    "an image of {what}",
    "a photo of {what} {place}",
    "{what} {place}",
)
_SUPERSAMPLING = 4


@dataclass(frozen=True, eq=False)
class ObjectPicture:
    """A picture of one object."""

    image: np.ndarray
    """uint8 [size, size, 3]."""
    caption: str
    name: str
    """Its class, one of CLASSES."""
    colour: str
    """Its main colour, empty for classes of their own colour."""
    place: str


def draw_object(name: str, size: int, random: np.random.Generator) -> ObjectPicture:
    """An object of a class, in a colour, place, size and pose at random."""
    colour, second = (_COLOURS[k] for k in random.choice(len(_COLOURS), 2, replace=False))
    place = PLACES[int(random.integers(len(PLACES)))]
    wall = _COLOURS[int(random.integers(len(_COLOURS)))]
    half = float(random.uniform(0.26, 0.44))
    centre = (float(random.uniform(half, 1 - half)), float(random.uniform(half, 1 - half)))
    pen = Pen(size * _SUPERSAMPLING, centre, half, float(np.clip(random.normal(0, 0.2), -0.5, 0.5)), bool(random.integers(2)))
    _PAINTERS[name](pen, Inks(COLOURS[colour], COLOURS[second]))
    light = float(random.uniform(-0.8, 0.8))
    layer = pen.lit((np.sin(light), -np.cos(light)))
    backdrop = paint_place(place, wall, random)
    start, stop = -START / EXTENT * PIXELS, (1 - START) / EXTENT * PIXELS
    picture = backdrop.resize((size, size), Image.Resampling.BICUBIC, box=(start, start, stop, stop))
    small = layer.resize((size, size), Image.Resampling.BOX)
    picture.paste(small, (0, 0), small)
    rgb = np.asarray(picture, dtype=np.float32).transpose(2, 0, 1) * float(random.uniform(0.85, 1.1)) / 255
    rgb = rgb + 0.012 * random.standard_normal(rgb.shape, dtype=np.float32)
    own = name in _OWN_COLOUR
    what = name if own or random.random() < 0.35 else f"{colour} {name}"
    what = ("an " if what[0] in "aeiou" else "a ") + what
    wording = _WORDINGS[int(random.integers(len(_WORDINGS)))]
    caption = wording.format(what=what, place=place_words(place, wall, random))
    return ObjectPicture(to_bytes(rgb), caption, name, "" if own else colour, place)
