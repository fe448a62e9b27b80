"""Objects that move or hang in the sky: vehicles, animals without a face to speak of, toys and heavenly bodies."""

from __future__ import annotations

import math

from .pen import BLACK, DARK_WOOD, GLASS, GREY, ORANGE, RED, SILVER, WHITE, YELLOW, Inks, Pen, arc
from .sketch import rgb


def _wheel(p: Pen, x: float, y: float, r: float) -> None:
    p.disc(x, y, r, r, BLACK)
    p.disc(x, y, 0.5 * r, 0.5 * r, SILVER)


def car(p: Pen, i: Inks) -> None:
    p.shape([(-0.55, -0.1), (-0.35, -0.52), (0.3, -0.52), (0.58, -0.1)], i.main)
    p.shape([(-0.42, -0.1), (-0.28, -0.42), (-0.04, -0.42), (-0.04, -0.1)], GLASS)
    p.shape([(0.04, -0.1), (0.04, -0.42), (0.25, -0.42), (0.44, -0.1)], GLASS)
    p.shape([(-0.96, -0.1), (0.85, -0.1), (0.97, 0.1), (0.97, 0.38), (-0.96, 0.38)], i.main)
    p.box(-0.96, 0.26, 0.97, 0.38, i.dark)
    p.disc(0.9, 0.08, 0.07, 0.08, YELLOW)
    _wheel(p, -0.52, 0.4, 0.24)
    _wheel(p, 0.52, 0.4, 0.24)


def boat(p: Pen, i: Inks) -> None:
    p.box(-0.04, -0.95, 0.04, 0.3, DARK_WOOD)
    p.shape([(0.08, -0.9), (0.8, 0.15), (0.08, 0.15)], WHITE)
    p.shape([(-0.08, -0.7), (-0.62, 0.15), (-0.08, 0.15)], i.second)
    p.shape([(-0.95, 0.3), (0.95, 0.3), (0.62, 0.8), (-0.62, 0.8)], i.main)
    p.box(-0.93, 0.3, 0.93, 0.4, i.dark)


def train(p: Pen, i: Inks) -> None:
    p.box(0.5, -0.75, 0.7, -0.1, BLACK)
    p.box(0.44, -0.82, 0.76, -0.68, BLACK)
    p.box(-0.3, -0.2, 0.9, 0.4, i.main)
    p.disc(0.9, 0.1, 0.1, 0.3, i.dark)
    p.box(-0.9, -0.65, -0.22, 0.4, i.second)
    p.box(-0.98, -0.75, -0.14, -0.6, i.second_dark)
    p.box(-0.75, -0.5, -0.38, -0.1, GLASS)
    p.box(-0.95, 0.36, 0.98, 0.5, GREY)
    for x in (-0.65, -0.1, 0.35, 0.78):
        _wheel(p, x, 0.58, 0.2)


def bicycle(p: Pen, i: Inks) -> None:
    for x in (-0.58, 0.58):
        p.ring(x, 0.3, 0.36, 0.36, 0.08, BLACK)
        p.disc(x, 0.3, 0.05, 0.05, GREY)
    for path in ([(-0.58, 0.3), (-0.2, -0.28), (0.42, -0.28), (0.0, 0.3), (-0.58, 0.3)], [(-0.27, -0.45), (0.0, 0.3)]):
        p.line(path, 0.085, i.main)
    p.line([(0.58, 0.3), (0.36, -0.52), (0.56, -0.58)], 0.085, i.main)
    p.line([(-0.44, -0.48), (-0.12, -0.48)], 0.1, BLACK)


def rocket(p: Pen, i: Inks) -> None:
    p.shape([(-0.2, 0.5), (0.2, 0.5), (0.0, 0.98)], ORANGE)
    p.shape([(-0.1, 0.5), (0.1, 0.5), (0.0, 0.8)], YELLOW)
    p.shape([(-0.3, 0.05), (-0.62, 0.62), (-0.25, 0.5)], i.second)
    p.shape([(0.3, 0.05), (0.62, 0.62), (0.25, 0.5)], i.second)
    p.shape([*arc(0, -0.2, 0.34, 0.78, 0.5, 1.0), (0.28, 0.55), (-0.28, 0.55)], i.main)
    p.shape([*arc(0, -0.2, 0.34, 0.78, 0.62, 0.88)], i.second)
    p.disc(0, -0.12, 0.17, 0.17, SILVER)
    p.disc(0, -0.12, 0.12, 0.12, GLASS)


def airplane(p: Pen, i: Inks) -> None:
    p.shape([(-0.05, -0.1), (-0.4, -0.75), (-0.2, -0.75), (0.35, -0.1)], i.dark)
    p.shape([(-0.9, -0.5), (-0.72, -0.5), (-0.5, -0.08), (-0.9, -0.05)], i.second)
    p.disc(0, 0, 0.95, 0.2, i.main)
    p.shape([(-0.1, 0.05), (-0.5, 0.75), (-0.28, 0.75), (0.35, 0.05)], i.second)
    for k in range(6):
        p.disc(-0.45 + 0.18 * k, -0.05, 0.05, 0.05, GLASS)
    p.shape([*arc(0.72, -0.06, 0.14, 0.08)], GLASS)


def fish(p: Pen, i: Inks) -> None:
    p.shape([(-0.5, 0), (-0.95, -0.42), (-0.82, 0), (-0.95, 0.42)], i.second)
    p.shape([(-0.2, -0.35), (0.1, -0.75), (0.35, -0.35)], i.second)
    p.disc(0.1, 0, 0.72, 0.44, i.main)
    for x in (-0.25, 0.0, 0.25):
        p.line(arc(x, 0, 0.12, 0.3, -0.2, 0.2), 0.05, i.dark)
    p.disc(0.56, -0.1, 0.1, 0.1, WHITE)
    p.disc(0.58, -0.1, 0.05, 0.05, BLACK)


def bird(p: Pen, i: Inks) -> None:
    p.shape([(-0.45, 0.15), (-0.97, 0.0), (-0.9, 0.3)], i.dark)
    p.line([(-0.05, 0.5), (-0.08, 0.9)], 0.05, ORANGE)
    p.line([(0.15, 0.5), (0.14, 0.9)], 0.05, ORANGE)
    p.disc(0, 0.18, 0.58, 0.4, i.main)
    p.disc(0.48, -0.28, 0.32, 0.3, i.main)
    p.shape([(0.74, -0.38), (0.98, -0.24), (0.74, -0.16)], ORANGE)
    p.shape([(0.2, 0.0), (-0.35, -0.05), (-0.7, 0.45), (-0.05, 0.4)], i.second)
    p.disc(0.56, -0.34, 0.055, 0.055, BLACK)


def butterfly(p: Pen, i: Inks) -> None:
    for side in (-1, 1):
        p.disc(side * 0.48, -0.3, 0.46, 0.42, i.main)
        p.disc(side * 0.4, 0.4, 0.36, 0.36, i.dark)
        p.disc(side * 0.52, -0.32, 0.2, 0.18, i.second)
        p.disc(side * 0.42, 0.42, 0.13, 0.13, i.second)
        p.line([(0, -0.5), (side * 0.2, -0.88)], 0.035, BLACK)
    p.disc(0, 0.05, 0.09, 0.62, BLACK)


def balloon(p: Pen, i: Inks) -> None:
    p.line([(0, 0.4), (0.06, 0.65), (-0.04, 0.98)], 0.03, GREY)
    p.shape([(-0.1, 0.48), (0.1, 0.48), (0, 0.34)], i.dark)
    p.disc(0, -0.26, 0.56, 0.68, i.main)
    p.disc(-0.22, -0.52, 0.11, 0.17, i.light)


def kite(p: Pen, i: Inks) -> None:
    p.line([(0, 0.3), (0.12, 0.55), (-0.05, 0.75), (0.1, 0.98)], 0.035, GREY)
    p.shape([(0, -0.95), (0.62, -0.3), (0, 0.45), (-0.62, -0.3)], i.main)
    p.shape([(0, -0.95), (0.62, -0.3), (0, -0.3)], i.second)
    p.shape([(0, 0.45), (-0.62, -0.3), (0, -0.3)], i.second)
    for x, y in ((0.1, 0.56), (-0.04, 0.76)):
        p.shape([(x - 0.14, y - 0.08), (x - 0.14, y + 0.08), (x + 0.14, y - 0.08), (x + 0.14, y + 0.08)], RED)


def star(p: Pen, i: Inks) -> None:
    points = []
    for k in range(10):
        turn, far = math.pi * (k / 5 - 0.5), 0.95 if k % 2 == 0 else 0.42
        points.append((far * math.cos(turn), far * math.sin(turn)))
    p.shape(points, i.main)


def heart(p: Pen, i: Inks) -> None:
    p.disc(-0.4, -0.3, 0.45, 0.45, i.main)
    p.disc(0.4, -0.3, 0.45, 0.45, i.main)
    p.shape([(-0.79, -0.08), (-0.3, -0.3), (0.3, -0.3), (0.79, -0.08), (0, 0.9)], i.main)
    p.disc(-0.48, -0.42, 0.13, 0.13, i.light)


def moon(p: Pen, i: Inks) -> None:
    outer = arc(0, 0, 0.9, 0.9, 0.17, 0.83)
    inner = arc(0.42, 0, 0.78, 0.78, 0.76, 0.24)
    p.shape([*outer, *inner], rgb((0.98, 0.94, 0.70)))
    for x, y, r in ((-0.62, -0.1, 0.09), (-0.45, 0.42, 0.1), (-0.4, -0.5, 0.07)):
        p.disc(x, y, r, r, rgb((0.86, 0.80, 0.55)))


def sun(p: Pen, i: Inks) -> None:
    for k in range(12):
        turn = 2 * math.pi * k / 12
        a, b = turn - 0.12, turn + 0.12
        tip = (0.98 * math.cos(turn), 0.98 * math.sin(turn))
        p.shape([(0.6 * math.cos(a), 0.6 * math.sin(a)), tip, (0.6 * math.cos(b), 0.6 * math.sin(b))], ORANGE)
    p.disc(0, 0, 0.56, 0.56, YELLOW)


def cloud(p: Pen, i: Inks) -> None:
    soft = rgb((0.90, 0.93, 0.97))
    p.box(-0.6, 0.1, 0.6, 0.5, soft)
    for x, y, r in ((-0.6, 0.2, 0.32), (0.6, 0.18, 0.34), (-0.22, -0.08, 0.42), (0.26, -0.02, 0.4), (0, 0.25, 0.3)):
        p.disc(x, y, r, r, soft)
    for x, y, r in ((-0.22, -0.14, 0.32), (0.28, -0.08, 0.3)):
        p.disc(x, y, r, r, WHITE)
