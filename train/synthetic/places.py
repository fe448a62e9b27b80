"""Places to be in, drawn recognisably behind the person, and out of focus."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from .canvas import Colour
from .scenes import COLOURS
from .sketch import Sketch, rgb

START, EXTENT = -0.5, 2.0
"""A place is drawn beyond the picture's edges: crops of the face may reach over them."""
PIXELS = 240

Painter = Callable[[Sketch, np.random.Generator], None]


def paint_place(place: str, colour: str, random: np.random.Generator) -> Image.Image:
    """The raster of a place: PIXELS square, from START to START + EXTENT in units of the picture's side."""
    sketch = Sketch(PIXELS, START, EXTENT)
    if place == "plain wall":
        base = np.asarray(COLOURS[colour])
        top, bottom = (tuple((base * tone + 0.04).tolist()) for tone in (0.98, 0.80))
        sketch.gradient([top, bottom], 0, 1)
    else:
        _PAINTERS[place](sketch, random)
    return sketch.image.filter(ImageFilter.BoxBlur(1))


def _sky(sketch: Sketch, low: Colour = (0.80, 0.90, 0.97), high: Colour = (0.35, 0.62, 0.92)) -> None:
    sketch.gradient([high, low], -0.1, 0.65)


def _beach(s: Sketch, random: np.random.Generator) -> None:
    _sky(s)
    s.ellipse(random.uniform(0.1, 0.9), 0.14, 0.09, 0.09, rgb((1.0, 0.95, 0.6)))
    s.rect(-0.5, 0.48, 1.5, 0.72, rgb((0.10, 0.52, 0.72)))
    s.rect(-0.5, 0.60, 1.5, 0.72, rgb((0.20, 0.66, 0.78)))
    wave = [(x, 0.70 + 0.015 * np.sin(9 * x + random.uniform(0, 0.3))) for x in np.linspace(-0.5, 1.5, 30)]
    s.polygon([*wave, (1.5, 1.5), (-0.5, 1.5)], rgb((0.97, 0.97, 0.95)))
    s.polygon([*((x, y + 0.02) for x, y in wave), (1.5, 1.5), (-0.5, 1.5)], rgb((0.94, 0.84, 0.60)))
    x = random.choice([random.uniform(0.0, 0.2), random.uniform(0.8, 1.0)])
    s.line([(x, 0.95), (x + 0.02, 0.6), (x + 0.07, 0.28)], 0.045, rgb((0.50, 0.34, 0.20)))
    for angle in np.linspace(-2.9, 0.2, 7):
        tip = (x + 0.07 + 0.27 * np.cos(angle), 0.28 + 0.2 * np.sin(angle) + 0.1)
        bend = (x + 0.07 + 0.16 * np.cos(angle), 0.26 + 0.18 * np.sin(angle))
        s.line([(x + 0.07, 0.28), bend, tip], 0.04, rgb((0.14, 0.50, 0.20)))


def _forest(s: Sketch, random: np.random.Generator, leaves: tuple[Colour, ...] = (), ground: Colour = (0.20, 0.32, 0.14)) -> None:
    greens = leaves or ((0.12, 0.38, 0.16), (0.20, 0.50, 0.20), (0.10, 0.30, 0.14))
    s.gradient([greens[0], greens[1], (0.62, 0.76, 0.48)], -0.2, 0.75)
    s.rect(-0.5, 0.74, 1.5, 1.5, rgb(ground))
    for row, tone in ((0.0, 0.7), (0.5, 1.0)):
        for x in np.arange(-0.45 + 0.1 * row, 1.5, 0.24):
            x += random.uniform(-0.06, 0.06)
            width = random.uniform(0.025, 0.05) * (1 + row)
            s.rect(x - width, 0.0, x + width, 0.78 + 0.08 * row, rgb((0.36, 0.24, 0.14), tone))
    for _ in range(46):
        colour = greens[int(random.integers(len(greens)))]
        radius = random.uniform(0.06, 0.15)
        place = random.uniform(-0.5, 1.5), random.uniform(-0.5, 0.24)
        s.ellipse(*place, radius, radius * 0.75, rgb(colour, random.uniform(0.75, 1.3)))


def _autumn(s: Sketch, random: np.random.Generator) -> None:
    _forest(s, random, ((0.85, 0.42, 0.10), (0.95, 0.65, 0.18), (0.75, 0.22, 0.10)), (0.62, 0.44, 0.20))
    for _ in range(60):
        colour = ((0.90, 0.50, 0.10), (0.80, 0.20, 0.08), (0.98, 0.80, 0.25))[int(random.integers(3))]
        s.ellipse(random.uniform(-0.5, 1.5), random.uniform(0.2, 1.4), 0.017, 0.012, rgb(colour))


def _buildings(s: Sketch, random: np.random.Generator, walls: tuple[Colour, ...], lit: Colour, share: float) -> None:
    x = -0.5
    while x < 1.5:
        width, top = random.uniform(0.14, 0.26), random.uniform(-0.05, 0.38)
        wall = walls[int(random.integers(len(walls)))]
        s.rect(x, top, x + width, 1.5, rgb(wall))
        on, off = rgb(lit), rgb(wall, 0.72)
        for row in np.arange(top + 0.04, 1.1, 0.075).tolist():
            for column in np.arange(x + 0.022, x + width - 0.03, 0.05).tolist():
                colour = on if random.random() < share else off
                s.rect(column, row, column + 0.026, row + 0.042, colour)
        x += width + random.uniform(0, 0.04)


def _city(s: Sketch, random: np.random.Generator) -> None:
    _sky(s, (0.88, 0.92, 0.95), (0.55, 0.75, 0.93))
    _buildings(s, random, ((0.62, 0.60, 0.60), (0.72, 0.64, 0.56), (0.50, 0.55, 0.62)), (0.72, 0.84, 0.92), 0.75)
    s.rect(-0.5, 0.93, 1.5, 1.5, rgb((0.35, 0.35, 0.37)))


def _night(s: Sketch, random: np.random.Generator) -> None:
    s.gradient([(0.03, 0.04, 0.13), (0.10, 0.11, 0.28)], 0, 0.7)
    for _ in range(70):
        s.ellipse(random.uniform(-0.5, 1.5), random.uniform(-0.5, 0.4), 0.006, 0.006, rgb((0.95, 0.95, 0.85)))
    s.ellipse(random.choice([0.14, 0.86]), 0.13, 0.085, 0.085, rgb((0.97, 0.95, 0.80)))
    _buildings(s, random, ((0.07, 0.07, 0.13), (0.10, 0.09, 0.16)), (0.98, 0.82, 0.35), 0.5)


def _mountains(s: Sketch, random: np.random.Generator) -> None:
    s.gradient([(0.55, 0.70, 0.88), (0.88, 0.93, 0.98)], 0, 0.6)
    for x in np.arange(-0.5, 1.6, 0.42):
        x += random.uniform(-0.1, 0.1)
        top, wide = random.uniform(0.08, 0.26), random.uniform(0.32, 0.44)
        s.polygon([(x - wide, 0.8), (x, top), (x + wide, 0.8)], rgb((0.42, 0.48, 0.60)))
        s.polygon([(x, top), (x + wide, 0.8), (x + 0.1 * wide, 0.8)], rgb((0.33, 0.39, 0.52)))
        cap = [(x - 0.4 * wide, top + 0.26), (x - 0.12 * wide, top + 0.2), (x, top + 0.3), (x + 0.2 * wide, top + 0.19)]
        s.polygon([(x, top), *cap[::-1]], rgb((0.97, 0.98, 1.0)))
    hills = [(x, 0.76 + 0.04 * np.sin(5 * x + random.uniform(0, 0.4))) for x in np.linspace(-0.5, 1.5, 24)]
    s.polygon([*hills, (1.5, 1.5), (-0.5, 1.5)], rgb((0.94, 0.96, 0.99)))
    for _ in range(90):
        s.ellipse(random.uniform(-0.5, 1.5), random.uniform(-0.5, 1.4), 0.009, 0.009, rgb((1, 1, 1)))


def _desert(s: Sketch, random: np.random.Generator) -> None:
    s.gradient([(0.98, 0.62, 0.35), (0.99, 0.88, 0.66)], 0, 0.6)
    for height, tone in ((0.52, 0.92), (0.66, 1.0), (0.84, 1.08)):
        phase = random.uniform(0, 6)
        dune = [(x, height + 0.06 * np.sin(4 * x + phase)) for x in np.linspace(-0.5, 1.5, 30)]
        s.polygon([*dune, (1.5, 1.5), (-0.5, 1.5)], rgb((0.86, 0.62, 0.34), tone))
    x = random.choice([random.uniform(0.06, 0.2), random.uniform(0.8, 0.94)])
    green = rgb((0.20, 0.46, 0.22))
    s.line([(x, 0.9), (x, 0.34)], 0.075, green)
    s.ellipse(x, 0.34, 0.037, 0.04, green)
    s.line([(x, 0.66), (x - 0.11, 0.62), (x - 0.11, 0.46)], 0.05, green)
    s.line([(x, 0.60), (x + 0.11, 0.56), (x + 0.11, 0.42)], 0.05, green)


def _meadow(s: Sketch, random: np.random.Generator) -> None:
    _sky(s)
    for x in random.uniform(-0.4, 1.4, 4):
        for part in (-0.07, 0.0, 0.07):
            s.ellipse(x + part, 0.16 - 0.03 * (part == 0), 0.07, 0.04, rgb((0.98, 0.98, 0.98)))
    hill = [(x, 0.52 + 0.03 * np.sin(4 * x + 1)) for x in np.linspace(-0.5, 1.5, 24)]
    s.polygon([*hill, (1.5, 1.5), (-0.5, 1.5)], rgb((0.36, 0.68, 0.25)))
    s.rect(-0.5, 0.78, 1.5, 1.5, rgb((0.30, 0.60, 0.22)))
    petals = ((0.93, 0.20, 0.25), (0.98, 0.85, 0.20), (0.95, 0.55, 0.85), (0.98, 0.98, 0.98), (0.55, 0.30, 0.85))
    for _ in range(150):
        y = 0.55 + 0.85 * random.random() ** 1.3
        size = 0.010 + 0.030 * (y - 0.5)
        s.ellipse(random.uniform(-0.5, 1.5), y, size, size, rgb(petals[int(random.integers(5))]))


def _library(s: Sketch, random: np.random.Generator) -> None:
    s.gradient([(0.34, 0.21, 0.12), (0.28, 0.17, 0.10)], 0, 1)
    tones = list(COLOURS.values())
    for shelf in np.arange(-0.5, 1.5, 0.27).tolist():
        x = -0.5
        while x < 1.5:
            width, height = random.uniform(0.025, 0.06), random.uniform(0.16, 0.215)
            s.rect(x, shelf + 0.235 - height, x + width, shelf + 0.235, rgb(tones[int(random.integers(9))], 0.75))
            x += width + 0.006
        s.rect(-0.5, shelf + 0.235, 1.5, shelf + 0.27, rgb((0.48, 0.31, 0.18)))


def _room(s: Sketch, random: np.random.Generator) -> None:
    wall = ((0.90, 0.84, 0.72), (0.78, 0.84, 0.80), (0.88, 0.78, 0.74))[int(random.integers(3))]
    s.gradient([wall, wall], 0, 1)
    left = bool(random.integers(2))
    x = 0.02 if left else 0.64
    s.rect(x, 0.08, x + 0.34, 0.50, rgb((0.97, 0.97, 0.95)))
    s.rect(x + 0.025, 0.105, x + 0.315, 0.475, rgb((0.60, 0.82, 0.96)))
    s.rect(x + 0.16, 0.08, x + 0.18, 0.50, rgb((0.97, 0.97, 0.95)))
    s.rect(x, 0.28, x + 0.34, 0.30, rgb((0.97, 0.97, 0.95)))
    lamp = 0.84 if left else 0.16
    s.line([(lamp, 0.95), (lamp, 0.36)], 0.016, rgb((0.25, 0.22, 0.20)))
    s.polygon([(lamp - 0.06, 0.2), (lamp + 0.06, 0.2), (lamp + 0.11, 0.38), (lamp - 0.11, 0.38)], rgb((0.98, 0.86, 0.55)))
    sofa = tuple(COLOURS.values())[int(random.integers(9))]
    s.rect(-0.1, 0.62, 1.1, 0.95, rgb(sofa, 0.8))
    s.rect(-0.5, 0.88, 1.5, 1.5, rgb((0.52, 0.36, 0.22)))


def _sunset(s: Sketch, random: np.random.Generator) -> None:
    s.gradient([(0.30, 0.16, 0.42), (0.92, 0.36, 0.34), (0.99, 0.72, 0.30)], 0, 0.6)
    x = random.choice([0.2, 0.8])
    s.ellipse(x, 0.55, 0.13, 0.13, rgb((1.0, 0.93, 0.62)))
    s.rect(-0.5, 0.6, 1.5, 1.5, rgb((0.36, 0.18, 0.36)))
    for y in np.arange(0.62, 1.3, 0.035):
        wide = random.uniform(0.05, 0.14)
        s.rect(x - wide, y, x + wide, y + 0.014, rgb((0.99, 0.75, 0.42)))
    hills = [(t, 0.6 - 0.06 * abs(np.sin(3 * t + 1))) for t in np.linspace(-0.5, 1.5, 30)]
    s.polygon([*hills, (1.5, 0.61), (-0.5, 0.61)], rgb((0.20, 0.10, 0.26)))


def _bricks(s: Sketch, random: np.random.Generator) -> None:
    s.gradient([(0.78, 0.74, 0.70), (0.72, 0.68, 0.64)], 0, 1)
    for row, y in enumerate(np.arange(-0.5, 1.5, 0.085).tolist()):
        for x in np.arange(-0.6 + 0.1 * (row % 2), 1.5, 0.2).tolist():
            s.rect(x + 0.01, y + 0.007, x + 0.185, y + 0.076, rgb((0.66, 0.28, 0.20), random.uniform(0.8, 1.15)))


def _space(s: Sketch, random: np.random.Generator) -> None:
    s.gradient([(0.02, 0.01, 0.06), (0.12, 0.04, 0.22)], 0, 1)
    for _ in range(160):
        size = random.uniform(0.003, 0.009)
        s.ellipse(random.uniform(-0.5, 1.5), random.uniform(-0.5, 1.5), size, size, rgb((1, 1, 0.92)))
    x, y = random.choice([0.14, 0.86]), random.uniform(0.15, 0.4)
    tone = tuple(COLOURS.values())[int(random.integers(9))]
    s.ellipse(x, y, 0.14, 0.14, rgb(tone))
    s.ellipse(x - 0.02, y - 0.025, 0.105, 0.10, rgb(tone, 1.25))
    s.line([(x - 0.24, y + 0.07), (x, y + 0.02), (x + 0.24, y - 0.07)], 0.022, rgb((0.95, 0.88, 0.65)))


_PAINTERS: dict[str, Painter] = {
    "beach": _beach,
    "forest": _forest,
    "city": _city,
    "mountains": _mountains,
    "desert": _desert,
    "meadow": _meadow,
    "library": _library,
    "living room": _room,
    "night": _night,
    "sunset": _sunset,
    "brick wall": _bricks,
    "autumn park": _autumn,
    "space": _space,
}
