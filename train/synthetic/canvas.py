"""A canvas over part of a scene: float colours, soft-edged layers, and
the small functions that shapes are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]
"""RGB in [0, 1]."""


SPOT_REACH = 5**0.5


@dataclass(frozen=True)
class View:
    """Which part of a scene a picture shows. Scene units: half a head's height; x to the right, y down."""

    left: float
    top: float
    step: float
    """Scene units per pixel."""
    width: int
    height: int

    @classmethod
    def square(cls, centre: tuple[float, float], side: float, pixels: int) -> View:
        """A view of `side` units around `centre`."""
        return cls(centre[0] - side / 2, centre[1] - side / 2, side / pixels, pixels, pixels)

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Scene points [n, 2] -> pixel coordinates [n, 2] that count from the centre of the first pixel."""
        return (np.asarray(points, dtype=np.float64) - (self.left, self.top)) / self.step - 0.5


@dataclass(frozen=True, eq=False)
class Window:
    """A rectangle of a canvas: where it lies, and the scene coordinates of its pixels, x [1, w] and y [h, 1]."""

    rows: slice
    columns: slice
    x: np.ndarray
    y: np.ndarray
    step: float


class Canvas:
    """Layers painted one over the other, float32 [3, H, W] in [0, 1]."""

    def __init__(self, view: View, rgb: np.ndarray):
        self.view = view
        self.rgb = rgb

    def window(self, left: float, top: float, right: float, bottom: float) -> Window | None:
        """The pixels between these scene coordinates, None if the view shows none of them."""
        view = self.view
        columns = _span(left - view.left, right - view.left, view.step, view.width)
        rows = _span(top - view.top, bottom - view.top, view.step, view.height)
        if columns.stop - columns.start < 2 or rows.stop - rows.start < 2:
            return None
        x = (view.left + (np.arange(columns.start, columns.stop) + 0.5) * view.step).astype(np.float32)
        y = (view.top + (np.arange(rows.start, rows.stop) + 0.5) * view.step).astype(np.float32)
        return Window(rows, columns, x[None, :], y[:, None], view.step)

    def paint(self, window: Window, colour: np.ndarray | Colour, alpha: np.ndarray) -> None:
        """Lay `colour` ([3] or [3, h, w]) over the window's pixels, as thick as `alpha` [h, w] in [0, 1]."""
        under = self.rgb[:, window.rows, window.columns]
        mix(under, colour, alpha)

    def picture(self) -> np.ndarray:
        """uint8 [H, W, 3]."""
        return to_bytes(self.rgb)


def _span(start: float, stop: float, step: float, count: int) -> slice:
    first = min(max(math.floor(start / step), 0), count)
    return slice(first, max(first, min(max(math.ceil(stop / step), 0), count)))


def to_bytes(rgb: np.ndarray) -> np.ndarray:
    """float [3, H, W] in [0, 1] -> uint8 [H, W, 3]."""
    return np.ascontiguousarray((between_0_and_1(rgb) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0))


def mix(under: np.ndarray, colour: np.ndarray | Colour, alpha: np.ndarray) -> None:
    """Lay `colour` over `under` [3, h, w] in place."""
    for channel in range(3):
        tone = colour[channel]
        part = (tone if isinstance(tone, np.ndarray) else np.float32(tone)) - under[channel]
        part *= alpha
        under[channel] += part


def ramp(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high` (or the other way round, where low > high), smooth between them."""
    t = between_0_and_1((x - low) * (1 / (high - low)))
    return t * t * (3 - 2 * t)


def between_0_and_1(x: np.ndarray) -> np.ndarray:
    """np.clip without its overhead, which is most of the time for small arrays."""
    return np.minimum(np.maximum(x, 0), 1)


def inside(distance: np.ndarray, step: float) -> np.ndarray:
    """Coverage of pixels `step` units wide by a shape, from the signed distance to its edge (negative inside)."""
    return between_0_and_1(0.5 - distance * (1 / step))


def blob(x: np.ndarray, y: np.ndarray, centre: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
    """A soft spot: 1 in its centre, about exp(-r^2) at r radii, 0 from SPOT_REACH radii on."""
    fall = ((x - centre[0]) * (1 / (SPOT_REACH * radii[0]))) ** 2
    fall += ((y - centre[1]) * (1 / (SPOT_REACH * radii[1]))) ** 2
    t = np.maximum(1 - fall, 0)
    u = t * t
    return u * u * t


def ellipse(x: np.ndarray, y: np.ndarray, centre: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
    """About the signed distance to an ellipse's edge, negative inside."""
    r = np.sqrt(((x - centre[0]) * (1 / radii[0])) ** 2 + ((y - centre[1]) * (1 / radii[1])) ** 2)
    return (r - 1) * min(radii)


def between(stops: list[Colour], t: float) -> np.ndarray:
    """The colour [3] at `t` in [0, 1] of a gradient through evenly spaced stops."""
    table = np.asarray(stops)
    place = float(np.clip(t, 0, 1)) * (len(stops) - 1)
    first = min(int(place), len(stops) - 2)
    return (table[first] + (place - first) * (table[first + 1] - table[first])).astype(np.float32)
