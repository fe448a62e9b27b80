"""Eyes, brows and mouth, painted on the face's surface by the head's own coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .canvas import ellipse, inside, mix, ramp
from .light import Light
from .people import Looks
from .surface import Hit


@dataclass(frozen=True)
class Expression:
    """How a face is moved, drawn anew for every picture."""

    smile: float
    """-1 frown to 1 smile."""
    open: float
    """0 closed mouth to 1 wide open."""
    brows: float
    """-1 lowered to 1 raised."""
    lids: float
    """0.55 half closed to 1 wide open."""
    gaze: float
    """-1 to 1, left to right."""

    def mouth_corner(self, looks: Looks) -> tuple[float, float]:
        """(x, y) of the picture's right corner, in head coordinates; the other mirrors it."""
        wide = looks.mouth_width * (1 + 0.16 * max(0.0, self.smile) - 0.12 * self.open)
        return wide, looks.mouth_y - 0.065 * self.smile


_SPARSE = 4


class FacePart:
    """The rectangle of a face's pixels around one feature, with the rows and columns it takes from the whole."""

    def __init__(self, hit: Hit, left: float, top: float, right: float, bottom: float):
        # Looked for among every fourth pixel of every fourth row: features are wider, and the margin covers the rest.
        x, y, front = hit.x[::_SPARSE, ::_SPARSE], hit.y[::_SPARSE, ::_SPARSE], hit.z[::_SPARSE, ::_SPARSE] > 0
        near = (x > left) & (x < right) & (y > top) & (y < bottom) & front
        rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
        self.empty = len(rows) < 1 or len(columns) < 1
        if self.empty:
            return
        self.place = tuple(
            slice(max((int(found[0]) - 1) * _SPARSE, 0), (int(found[-1]) + 2) * _SPARSE) for found in (rows, columns)
        )
        self.x, self.y = hit.x[self.place], hit.y[self.place]
        self.front = (hit.z[self.place] > 0).astype(np.float32)
        self.step = hit.step

    def of(self, picture: np.ndarray) -> np.ndarray:
        return picture[:, self.place[0], self.place[1]]


def paint_eyes(picture: np.ndarray, hit: Hit, looks: Looks, expression: Expression, light: Light) -> None:
    """Both eyes over the shaded face [3, h, w]."""
    bright = float(np.clip(light.ambient.mean() + 0.55 * light.key.mean(), 0.6, 1.02))
    size = looks.eye_size
    for side in (-1, 1):
        x, y = side * looks.eye_x, looks.eye_y
        part = FacePart(hit, x - 1.4 * size, y - 1.5 * size, x + 1.4 * size, y + 1.2 * size)
        if not part.empty:
            _paint_eye(part.of(picture), part, side, looks, expression, bright, light)


def _paint_eye(
    picture: np.ndarray, part: FacePart, side: int, looks: Looks, expression: Expression, bright: float, light: Light
) -> None:
    size = looks.eye_size
    across, down = (part.x - side * looks.eye_x) * (side / size), (part.y - looks.eye_y) / size
    u, v = across, down + looks.eye_slant * across  # u to the outside; the slant lifts the outer corner
    step = part.step / size
    arch = np.maximum(1 - np.abs(u) ** 2.2, 0)
    upper = -(0.80 * expression.lids - 0.20) * arch
    lower = (0.40 + 0.08 * max(0.0, -expression.smile) - 0.08 * max(0.0, expression.smile)) * arch
    opening = inside(np.maximum(upper - v, v - lower), step) * (np.abs(u) < 1) * part.front

    gaze = 0.22 * expression.gaze * side
    radius = 0.52
    iris_distance = np.sqrt((u - gaze) ** 2 + (v + 0.05) ** 2)
    ball = np.empty_like(picture)
    white = (0.95 - 0.16 * u * u) * bright
    for channel, tone in enumerate((1.0, 0.985, 0.97)):
        ball[channel] = white * tone
    iris = looks.iris[:, None, None] * (0.75 + 0.75 * ramp(v, -0.3, 0.45)) * bright
    iris = iris * (1 - 0.6 * ramp(iris_distance, radius * 0.75, radius))
    mix(ball, iris, inside(iris_distance - radius, step))
    mix(ball, (0.03, 0.03, 0.04), inside(iris_distance - 0.24, step))
    ball *= 1 - 0.35 * (1 - ramp(v - upper, 0.0, 0.3))
    towards = -0.2 if light.direction[0] < 0 else 0.2
    spark = inside(ellipse(u * side, v, (gaze * side + towards, -0.25), (0.13, 0.13)), step)
    mix(ball, (1.0, 1.0, 1.0), 0.95 * spark)

    line = looks.hair * 0.25 + np.array([0.05, 0.035, 0.03])
    lash = inside(np.abs(v - upper + 0.05) - (0.055 + 0.06 * ramp(u, -0.6, 0.9)), step) * ramp(np.abs(u), 1.12, 1.0)
    crease = inside(np.abs(v - 1.12 * upper + 0.26) - 0.028, step) * ramp(np.abs(u), 1.0, 0.7)
    under = inside(np.abs(v - lower) - 0.02, step) * ramp(np.abs(u), 1.0, 0.85)
    skin_line = looks.skin * np.array([0.55, 0.42, 0.38])
    mix(picture, skin_line, 0.45 * crease * part.front)
    mix(picture, skin_line, 0.55 * under * part.front)
    mix(picture, ball, opening)
    mix(picture, line, 0.92 * lash * part.front)


def paint_brows(skin: np.ndarray, hit: Hit, looks: Looks, expression: Expression) -> None:
    """Both brows into the face's colours [3, h, w], before it is shaded."""
    size = looks.eye_size
    colour = looks.hair * 0.62 + 0.02
    for side in (-1, 1):
        x = side * looks.eye_x
        part = FacePart(hit, x - 0.3, looks.eye_y - 0.5, x + 0.3, looks.eye_y - 0.08)
        if part.empty:
            continue
        t = (part.x - x) * (side / 0.235)
        middle = looks.eye_y - 0.9 * size - 0.115 - 0.045 * expression.brows + 0.07 * t * t - looks.brow_angle * 0.27 * t
        middle += 0.05 * max(0.0, -expression.brows) * (t < 0) * -t
        thick = looks.brow_thickness * (1 - 0.55 * ramp(t, -0.2, 1.1))
        cover = inside(np.abs(part.y - middle) - thick, part.step) * ramp(np.abs(t), 1.05, 0.92) * part.front
        mix(part.of(skin), colour, 0.92 * cover)


def paint_mouth(picture: np.ndarray, hit: Hit, looks: Looks, expression: Expression, light: Light) -> None:
    """Lips, and teeth and dark between them, over the shaded face [3, h, w]."""
    wide, corner_y = expression.mouth_corner(looks)
    part = FacePart(hit, -wide - 0.06, looks.mouth_y - 0.22, wide + 0.06, looks.mouth_y + 0.36)
    if part.empty:
        return
    u = part.x / wide
    bow = np.maximum(1 - u * u, 0)
    middle = looks.mouth_y + (corner_y - looks.mouth_y) * (u * u)
    gap = expression.open * 0.15 * bow
    top_inner, low_inner = middle - 0.35 * gap, middle + 0.65 * gap
    notch = 0.18 * looks.lips * np.exp(-((part.x / 0.045) ** 2))
    top = top_inner - 0.85 * looks.lips * bow**0.75 + notch
    low = low_inner + 1.1 * looks.lips * bow**0.7
    y, step = part.y, part.step
    lips = inside(np.maximum(top - y, y - low), step) * (np.abs(u) < 1) * part.front
    bright = float(np.clip(light.ambient.mean() + 0.5 * light.key.mean(), 0.5, 1.05))
    colour = looks.lip_colour[:, None, None] * (bright * (0.86 + 0.26 * ramp(y - low_inner, -0.02, 0.05)))
    shine = 0.16 * inside(ellipse(part.x, y, (0.0, looks.mouth_y + gap.max() * 0.65 + 0.55 * looks.lips), (0.09, 0.018)), 0.03)
    under = part.of(picture)
    mix(under, colour + shine, 0.88 * lips)
    seam = inside(np.abs(y - middle) - 0.012, step) * ramp(np.abs(u), 1.08, 0.98) * part.front
    if expression.open > 0.08:
        mouth = inside(np.maximum(top_inner - y, y - low_inner), step) * (np.abs(u) < 0.94) * part.front
        mix(under, (0.25, 0.06, 0.07), mouth)
        teeth = inside(y - (top_inner + 0.45 * gap), step) * mouth
        mix(under, (0.93 * bright, 0.92 * bright, 0.88 * bright), teeth)
    else:
        mix(under, looks.lip_colour * 0.42, 0.85 * seam)
