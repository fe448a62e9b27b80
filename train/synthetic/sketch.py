"""Flat drawing on a raster, in units of the picture's side: for places behind people, and for objects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from .canvas import Colour

Point = tuple[float, float]


def rgb(colour: Colour | Sequence[float] | np.ndarray, light: float = 1.0) -> tuple[int, int, int]:
    """Bytes of a colour in [0, 1], brightened or darkened."""
    light *= 255
    return min(int(colour[0] * light), 255), min(int(colour[1] * light), 255), min(int(colour[2] * light), 255)


class Sketch:
    """A raster of `pixels` square that shows the coordinates from `start` to `start + extent` both ways."""

    def __init__(self, pixels: int, start: float, extent: float):
        self.image = Image.new("RGB", (pixels, pixels))
        self.draw = ImageDraw.Draw(self.image)
        self.start, self.scale = start, pixels / extent

    def at(self, x: float, y: float) -> Point:
        return (x - self.start) * self.scale, (y - self.start) * self.scale

    def gradient(self, colours: Sequence[Colour], top: float, bottom: float) -> None:
        """Evenly spaced colours from height `top` to `bottom`, over the whole width; the ends go on beyond."""
        y = self.start + (np.arange(self.image.height) + 0.5) / self.scale
        stops = np.linspace(top, bottom, len(colours))
        table = np.asarray(colours)
        column = np.stack([np.interp(y, stops, table[:, channel]) for channel in range(3)], 1)
        rows = np.broadcast_to((column[:, None] * 255).astype(np.uint8), (*self.image.size, 3))
        self.image.paste(Image.fromarray(rows))

    def rect(self, x0: float, y0: float, x1: float, y1: float, colour: tuple[int, int, int]) -> None:
        self.draw.rectangle((*self.at(x0, y0), *self.at(x1, y1)), fill=colour)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: tuple[int, int, int]) -> None:
        self.draw.ellipse((*self.at(x - rx, y - ry), *self.at(x + rx, y + ry)), fill=colour)

    def polygon(self, points: Sequence[Point], colour: tuple[int, int, int]) -> None:
        self.draw.polygon([self.at(*point) for point in points], fill=colour)

    def line(self, points: Sequence[Point], width: float, colour: tuple[int, int, int]) -> None:
        self.draw.line([self.at(*point) for point in points], colour, max(1, round(width * self.scale)), "curve")
