"""Objects that hold still: food, plants, and what lies around a house."""

from __future__ import annotations

import math

from .pen import (
    BLACK,
    BREAD,
    CREAM,
    DARK_GREEN,
    DARK_WOOD,
    GLASS,
    GREEN,
    GREY,
    ORANGE,
    RED,
    SILVER,
    WHITE,
    WOOD,
    YELLOW,
    Inks,
    Pen,
    arc,
)
from .sketch import rgb


def apple(p: Pen, i: Inks) -> None:
    p.disc(-0.28, 0.12, 0.52, 0.68, i.main)
    p.disc(0.28, 0.12, 0.52, 0.68, i.main)
    p.disc(-0.38, -0.12, 0.13, 0.2, i.light)
    p.line([(0, -0.42), (0.06, -0.85)], 0.1, DARK_WOOD)
    p.shape([*arc(0.32, -0.72, 0.3, 0.15, 0.0, 1.0)], GREEN)


def banana(p: Pen, i: Inks) -> None:
    outer = arc(0, -0.55, 0.95, 1.25, 0.02, 0.48)
    inner = arc(0, -0.75, 0.80, 0.85, 0.48, 0.02)
    p.shape([*outer, *inner], YELLOW)
    p.line(arc(0, -0.62, 0.86, 1.05, 0.06, 0.44), 0.05, rgb((0.85, 0.65, 0.1)))
    p.line([(-0.90, -0.5), (-0.97, -0.72)], 0.14, DARK_WOOD)
    p.disc(0.92, -0.5, 0.07, 0.07, DARK_WOOD)


def ball(p: Pen, i: Inks) -> None:
    p.disc(0, 0, 0.85, 0.85, i.main)
    p.disc(0, 0, 0.34, 0.85, i.second)
    p.disc(0, 0, 0.12, 0.85, i.main)
    p.disc(0, -0.72, 0.2, 0.1, WHITE)
    p.disc(-0.42, -0.4, 0.16, 0.12, WHITE)


def tree(p: Pen, i: Inks) -> None:
    p.shape([(-0.12, 0.95), (0.12, 0.95), (0.08, 0.0), (-0.08, 0.0)], DARK_WOOD)
    for x, y, r in ((-0.42, 0.05, 0.4), (0.42, 0.05, 0.4), (0, -0.1, 0.5), (-0.26, -0.45, 0.4), (0.28, -0.45, 0.38)):
        p.disc(x, y, r, r, DARK_GREEN)
    for x, y, r in ((-0.4, 0.0, 0.28), (0.36, -0.02, 0.28), (0, -0.35, 0.38)):
        p.disc(x, y, r, r, GREEN)


def house(p: Pen, i: Inks) -> None:
    p.box(0.35, -0.9, 0.58, -0.3, rgb((0.55, 0.25, 0.2)))
    p.box(-0.75, -0.12, 0.75, 0.9, i.main)
    p.shape([(-0.98, -0.08), (0, -0.9), (0.98, -0.08)], i.second_dark)
    p.box(-0.18, 0.3, 0.18, 0.9, DARK_WOOD)
    for x in (-0.62, 0.32):
        p.box(x, 0.1, x + 0.3, 0.42, WHITE)
        p.box(x + 0.04, 0.14, x + 0.26, 0.38, GLASS)


def cup(p: Pen, i: Inks) -> None:
    p.ring(0.62, 0.05, 0.3, 0.34, 0.14, i.dark)
    p.shape([(-0.72, -0.6), (0.62, -0.6), (0.5, 0.72), (-0.6, 0.72)], i.main)
    p.disc(-0.05, 0.72, 0.55, 0.12, i.main)
    p.disc(-0.05, -0.6, 0.67, 0.18, i.light)
    p.disc(-0.05, -0.57, 0.56, 0.13, rgb((0.30, 0.17, 0.09)))
    p.box(-0.66, -0.02, 0.56, 0.2, i.second)


def flower(p: Pen, i: Inks) -> None:
    p.line([(0, 0.0), (0.05, 0.95)], 0.1, GREEN)
    p.disc(0.3, 0.62, 0.28, 0.12, GREEN)
    for k in range(7):
        turn = 2 * math.pi * k / 7
        p.disc(0.42 * math.cos(turn), -0.28 + 0.42 * math.sin(turn), 0.27, 0.27, i.main if k % 2 else i.light)
    p.disc(0, -0.28, 0.26, 0.26, YELLOW)


def book(p: Pen, i: Inks) -> None:
    p.shape([(-0.7, -0.85), (0.6, -0.85), (0.6, 0.8), (-0.7, 0.8)], i.dark)
    p.shape([(-0.6, 0.68), (0.7, 0.68), (0.7, 0.86), (-0.6, 0.86)], CREAM)
    p.box(0.6, -0.78, 0.7, 0.86, CREAM)
    p.box(-0.7, -0.92, 0.6, 0.72, i.main)
    p.box(-0.7, -0.92, -0.5, 0.72, i.dark)
    p.box(-0.3, -0.6, 0.4, -0.3, i.second)
    p.box(-0.3, -0.1, 0.4, -0.03, i.light)


def clock(p: Pen, i: Inks) -> None:
    p.disc(0, 0, 0.9, 0.9, i.main)
    p.disc(0, 0, 0.74, 0.74, WHITE)
    for k in range(12):
        turn = 2 * math.pi * k / 12
        p.disc(0.62 * math.cos(turn), 0.62 * math.sin(turn), 0.05, 0.05, BLACK)
    p.line([(0, 0), (0.0, -0.5)], 0.08, BLACK)
    p.line([(0, 0), (0.34, 0.18)], 0.1, BLACK)
    p.disc(0, 0, 0.08, 0.08, RED)


def chair(p: Pen, i: Inks) -> None:
    for x in (-0.5, 0.36):
        p.box(x, -0.92, x + 0.13, 0.1, WOOD)
    for y in (-0.85, -0.55, -0.25):
        p.box(-0.5, y, 0.49, y + 0.14, i.main)
    p.shape([(-0.5, 0.02), (0.5, 0.02), (0.68, 0.26), (-0.68, 0.26)], i.main)
    for x, y in ((-0.64, 0.95), (0.52, 0.95), (-0.42, 0.72), (0.3, 0.72)):
        p.box(x, 0.22, x + 0.12, y, DARK_WOOD)


def table(p: Pen, i: Inks) -> None:
    for x, y in ((-0.8, 0.8), (0.68, 0.8), (-0.52, 0.55), (0.4, 0.55)):
        p.box(x, -0.1, x + 0.13, y, DARK_WOOD)
    p.shape([(-0.65, -0.42), (0.65, -0.42), (0.98, 0.0), (-0.98, 0.0)], i.main)
    p.box(-0.98, 0.0, 0.98, 0.12, i.dark)


def lamp(p: Pen, i: Inks) -> None:
    p.disc(0, 0.86, 0.42, 0.12, GREY)
    p.box(-0.05, -0.1, 0.05, 0.85, GREY)
    p.disc(0, 0.0, 0.16, 0.18, YELLOW)
    p.shape([(-0.32, -0.9), (0.32, -0.9), (0.68, -0.02), (-0.68, -0.02)], i.main)
    p.shape([(-0.1, -0.9), (0.1, -0.9), (0.2, -0.02), (-0.2, -0.02)], i.light)


def key(p: Pen, i: Inks) -> None:
    p.ring(-0.58, 0, 0.3, 0.3, 0.17, i.main)
    p.box(-0.3, -0.08, 0.92, 0.08, i.main)
    p.box(0.55, 0.05, 0.68, 0.34, i.main)
    p.box(0.78, 0.05, 0.92, 0.42, i.main)


def umbrella(p: Pen, i: Inks) -> None:
    p.line([(0, -0.85), (0, 0.72), (0.08, 0.86), (0.24, 0.84), (0.28, 0.68)], 0.08, DARK_WOOD)
    p.shape([*arc(0, 0.0, 0.95, 0.78, 0.5, 1.0)], i.main)
    p.shape([*arc(0, 0.0, 0.45, 0.78, 0.5, 1.0)], i.second)
    for x in (-0.72, -0.24, 0.24, 0.72):
        p.disc(x, 0.02, 0.22, 0.10, i.dark)


def mushroom(p: Pen, i: Inks) -> None:
    p.shape([(-0.2, -0.1), (0.2, -0.1), (0.3, 0.85), (-0.3, 0.85)], CREAM)
    p.disc(0, 0.85, 0.3, 0.1, CREAM)
    p.shape([*arc(0, 0.05, 0.9, 0.9, 0.5, 1.0)], i.main)
    p.disc(0, 0.05, 0.9, 0.14, i.dark)
    for x, y, r in ((-0.5, -0.25, 0.14), (0.05, -0.55, 0.17), (0.5, -0.2, 0.13), (-0.1, -0.15, 0.1)):
        p.disc(x, y, r, r * 0.85, WHITE)


def cactus(p: Pen, i: Inks) -> None:
    for path in ([(0, 0.5), (0, -0.75)], [(0, 0.15), (-0.5, 0.1), (-0.52, -0.35)], [(0, -0.1), (0.5, -0.12), (0.52, -0.5)]):
        p.line(path, 0.3 if len(path) == 2 else 0.22, GREEN)
    for y in (-0.6, -0.3, 0.0, 0.3):
        p.line([(-0.05, y), (0.05, y + 0.05)], 0.04, CREAM)
    p.shape([(-0.42, 0.45), (0.42, 0.45), (0.32, 0.95), (-0.32, 0.95)], i.main)
    p.box(-0.47, 0.42, 0.47, 0.58, i.dark)


def cake(p: Pen, i: Inks) -> None:
    p.disc(0, 0.72, 0.98, 0.2, SILVER)
    p.box(-0.8, 0.0, 0.8, 0.7, BREAD)
    p.disc(0, 0.7, 0.8, 0.14, BREAD)
    p.box(-0.8, 0.3, 0.8, 0.42, i.second)
    p.box(-0.8, -0.1, 0.8, 0.12, i.main)
    for k in range(5):
        p.disc(-0.64 + 0.32 * k, 0.13, 0.13, 0.15, i.main)
    p.disc(0, -0.1, 0.8, 0.2, i.light)
    for x in (-0.4, 0.0, 0.4):
        p.box(x - 0.05, -0.62, x + 0.05, -0.1, WHITE)
        p.disc(x, -0.74, 0.07, 0.13, ORANGE)


def ice_cream(p: Pen, i: Inks) -> None:
    p.shape([(-0.42, -0.05), (0.42, -0.05), (0, 0.98)], BREAD)
    for x in (-0.2, 0.0, 0.2):
        p.line([(x - 0.1, 0.0), (x * 0.3 + 0.05, 0.6)], 0.03, WOOD)
    p.disc(-0.24, -0.25, 0.36, 0.34, i.main)
    p.disc(0.26, -0.25, 0.36, 0.34, i.second)
    p.disc(0, -0.58, 0.36, 0.35, i.light)
    p.disc(0.05, -0.9, 0.1, 0.1, RED)


def pizza(p: Pen, i: Inks) -> None:
    p.disc(0, 0, 0.92, 0.92, BREAD)
    p.disc(0, 0, 0.78, 0.78, rgb((0.98, 0.80, 0.35)))
    for k in range(7):
        turn, far = 2 * math.pi * k / 7, 0.5 if k % 2 else 0.34
        p.disc(far * math.cos(turn), far * math.sin(turn), 0.15, 0.15, RED)
        p.disc(0.6 * math.cos(turn + 0.5), 0.6 * math.sin(turn + 0.5), 0.08, 0.05, DARK_GREEN)
    for k in range(4):
        turn = math.pi * k / 4
        p.line([(-0.9 * math.cos(turn), -0.9 * math.sin(turn)), (0.9 * math.cos(turn), 0.9 * math.sin(turn))], 0.025, BREAD)


def carrot(p: Pen, i: Inks) -> None:
    for x in (-0.28, 0.0, 0.28):
        p.disc(x, -0.66, 0.12, 0.32, GREEN)
    p.shape([*arc(0, -0.3, 0.36, 0.22, 0.5, 1.0), (0.04, 0.98), (-0.04, 0.98)], ORANGE)
    for y in (-0.1, 0.2, 0.5):
        p.line([(-0.16 + 0.1 * y, y), (0.06, y + 0.03)], 0.04, rgb((0.80, 0.40, 0.08)))


def candle(p: Pen, i: Inks) -> None:
    p.disc(0, 0.86, 0.5, 0.13, SILVER)
    p.box(-0.24, -0.3, 0.24, 0.82, i.main)
    p.disc(0, -0.3, 0.24, 0.08, i.light)
    p.line([(0, -0.32), (0, -0.48)], 0.04, BLACK)
    p.shape([*arc(0, -0.6, 0.15, 0.18, 0.0, 0.5), (0, -0.98)], ORANGE)
    p.disc(0, -0.58, 0.07, 0.12, YELLOW)


def bell(p: Pen, i: Inks) -> None:
    p.disc(0, 0.72, 0.17, 0.17, DARK_WOOD)
    p.ring(0, -0.8, 0.12, 0.12, 0.07, i.dark)
    p.shape([*arc(0, -0.25, 0.46, 0.5, 0.5, 1.0), (0.55, 0.3), (0.8, 0.6), (-0.8, 0.6), (-0.55, 0.3)], i.main)
    p.disc(0, 0.6, 0.8, 0.12, i.dark)
    p.shape([(-0.32, -0.3), (-0.2, -0.35), (-0.24, 0.4), (-0.42, 0.42)], i.light)


def shoe(p: Pen, i: Inks) -> None:
    p.shape([(-0.85, -0.55), (-0.2, -0.5), (0.1, -0.05), (0.7, 0.1), (0.92, 0.42), (-0.9, 0.42)], i.main)
    p.shape([(-0.92, 0.38), (0.95, 0.38), (0.95, 0.6), (-0.92, 0.6)], WHITE)
    p.disc(-0.52, -0.53, 0.34, 0.1, i.deep)
    for k in range(3):
        p.line([(-0.14 + 0.17 * k, -0.3 + 0.17 * k), (-0.32 + 0.2 * k, -0.12 + 0.15 * k)], 0.07, WHITE)
    p.shape([(-0.7, 0.28), (-0.3, 0.0), (-0.15, 0.05), (-0.5, 0.3)], i.second)


def guitar(p: Pen, i: Inks) -> None:
    p.box(-0.08, -0.9, 0.08, 0.2, DARK_WOOD)
    p.box(-0.13, -0.98, 0.13, -0.74, BLACK)
    p.disc(0, 0.55, 0.52, 0.42, i.main)
    p.disc(0, 0.08, 0.38, 0.32, i.main)
    p.disc(0, 0.2, 0.16, 0.16, BLACK)
    p.box(-0.22, 0.62, 0.22, 0.7, DARK_WOOD)
    for x in (-0.04, 0.04):
        p.line([(x, -0.9), (x, 0.65)], 0.02, SILVER)
