"""A pen for objects: shapes in the object's own coordinates, turned and
placed as one, and lit as if they were solid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .canvas import Colour
from .sketch import Point, rgb

Ink = tuple[int, int, int]


class Pen:
    """Draws on a transparent layer. An object's coordinates: -1 to 1 across and, downwards, along."""

    def __init__(self, pixels: int, centre: Point, half: float, angle: float, mirrored: bool):
        """`centre` and `half` the object's size in units of the layer's side; `angle` in radians, clockwise."""
        self.layer = Image.new("RGBA", (pixels, pixels))
        self._draw = ImageDraw.Draw(self.layer)
        scale = half * pixels
        c, s = math.cos(angle) * scale, math.sin(angle) * scale
        self._across = (-c, -s) if mirrored else (c, s)
        self._along = (-s, c)
        self._centre = centre[0] * pixels, centre[1] * pixels
        self._scale = scale

    def _place(self, points: Sequence[Point]) -> list[Point]:
        (ax, ay), (bx, by), (cx, cy) = self._across, self._along, self._centre
        return [(cx + ax * x + bx * y, cy + ay * x + by * y) for x, y in points]

    def shape(self, points: Sequence[Point], ink: Ink) -> None:
        """A filled polygon."""
        self._draw.polygon(self._place(points), fill=ink)

    def box(self, x0: float, y0: float, x1: float, y1: float, ink: Ink) -> None:
        self.shape([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], ink)

    def disc(self, x: float, y: float, rx: float, ry: float, ink: Ink, start: float = 0.0, stop: float = 1.0) -> None:
        """An ellipse, or its part between two fractions of the turn (clockwise from the right)."""
        self.shape(arc(x, y, rx, ry, start, stop), ink)

    def line(self, points: Sequence[Point], width: float, ink: Ink) -> None:
        """A stroke with round ends."""
        places, thick = self._place(points), max(1.0, width * self._scale)
        self._draw.line(places, ink, round(thick), "curve")
        for x, y in (places[0], places[-1]):
            self._draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=ink)

    def ring(self, x: float, y: float, rx: float, ry: float, width: float, ink: Ink) -> None:
        self.line([*arc(x, y, rx, ry), (x + rx, y)], width, ink)

    def lit(self, light: tuple[float, float]) -> Image.Image:
        """The layer with its edges rounded by light from a direction (x right, y down)."""
        reach = max(1.0, 0.14 * self._scale)
        alpha = self.layer.getchannel("A")
        # Far from the edges relief is of no use; a quarter of the pixels tell the same.
        small = alpha.resize((alpha.width // 4, alpha.height // 4), Image.Resampling.BOX)
        soft = np.asarray(small.filter(ImageFilter.GaussianBlur(reach / 4)), dtype=np.float32) / 255
        down, across = np.gradient(soft)
        glow = np.clip(1.03 - 0.9 * (across * light[0] + down * light[1]) * reach / 4, 0.6, 1.4)
        shade = Image.fromarray(np.clip(glow * 150, 0, 255).astype(np.uint8)).resize(alpha.size, Image.Resampling.BILINEAR)
        colour = np.asarray(self.layer.convert("RGB"), dtype=np.float32) * (np.asarray(shade, dtype=np.float32)[..., None] / 150)
        lit = Image.fromarray(np.clip(colour, 0, 255).astype(np.uint8))
        lit.putalpha(alpha)
        return lit


def arc(x: float, y: float, rx: float, ry: float, start: float = 0.0, stop: float = 1.0) -> list[Point]:
    """Points along an ellipse between two fractions of the turn."""
    turns = [2 * math.pi * (start + (stop - start) * k / 28) for k in range(29)]
    return [(x + rx * math.cos(turn), y + ry * math.sin(turn)) for turn in turns]


class Inks:
    """The colours of one object: its main colour, lighter and darker ones of it, and a second colour."""

    def __init__(self, main: Colour, second: Colour):
        self.main, self.dark, self.deep = rgb(main), rgb(main, 0.72), rgb(main, 0.45)
        self.light = rgb([min(1.0, 0.35 + 0.75 * value) for value in main])
        self.second, self.second_dark = rgb(second), rgb(second, 0.7)


WHITE, BLACK, GREY, SILVER = rgb((0.97, 0.97, 0.95)), rgb((0.10, 0.10, 0.12)), rgb((0.45, 0.46, 0.5)), rgb((0.78, 0.8, 0.84))
WOOD, DARK_WOOD, GREEN, DARK_GREEN = (
    rgb((0.62, 0.42, 0.24)),
    rgb((0.42, 0.27, 0.15)),
    rgb((0.22, 0.58, 0.22)),
    rgb((0.12, 0.40, 0.16)),
)
YELLOW, ORANGE, RED, GLASS = rgb((1.0, 0.85, 0.25)), rgb((0.98, 0.55, 0.12)), rgb((0.85, 0.15, 0.15)), rgb((0.65, 0.85, 0.96))
CREAM, BREAD = rgb((0.98, 0.93, 0.80)), rgb((0.86, 0.64, 0.36))
