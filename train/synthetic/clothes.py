"""The body and what it wears, in scene coordinates: the body stands
upright under the head, and is the same for all."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas, Colour, Window, ellipse, inside, ramp
from .light import Light
from .people import Looks
from .scenes import COLOURS, Scene
from .surface import Hit

NECK_FOOT = 1.75


def paint_body(canvas: Canvas, looks: Looks, light: Light) -> None:
    """Bare shoulders and chest, for what clothes leave free."""
    window = _window(canvas)
    if window is not None:
        hit = _body(window)
        canvas.paint(window, light.shade(hit, looks.skin), hit.alpha)


def paint_clothes(canvas: Canvas, scene: Scene, light: Light) -> None:
    """Clothes, and a scarf where there is one."""
    window = _window(canvas)
    if window is None:
        return
    hit = _body(window, grown=0.05)
    albedo, cover = _cloth(scene, window, hit)
    shaded = light.shade(hit, albedo, soft=0.35) * _folds(window)
    canvas.paint(window, shaded, cover)
    if scene.scarf:
        _paint_scarf(canvas, window, COLOURS[scene.scarf], light)


def _window(canvas: Canvas) -> Window | None:
    bottom = canvas.view.top + canvas.view.step * canvas.view.height
    return canvas.window(-2.0, 1.0, 2.0, bottom + 0.1)


def _body(window: Window, grown: float = 0.0) -> Hit:
    x, y = window.x, window.y
    across = np.abs(x) * (1 / (1.5 + grown + 0.03 * np.maximum(y - 2, 0)))
    rise = 0.64 + grown + 0.2 * np.maximum(1 - (x / 0.62) ** 2, 0)
    up = np.maximum(1.98 - y, 0) / rise
    across2, up2 = across * across, up * up
    distance = (np.sqrt(np.sqrt(across2 * across2 * across + up2 * up)) - 1) * 0.8
    nx = np.clip(x * across * 0.7, -0.95, 0.95)
    ny = -0.65 * np.minimum(up, 1) * np.minimum(across + 0.3, 1)
    nz = np.sqrt(np.maximum(1 - nx * nx - ny * ny, 0.05))
    return Hit(inside(distance, window.step), x, y, nz, (nx, ny, nz))


def _folds(window: Window) -> np.ndarray:
    """Creases where the arms hang, and a little unevenness."""
    across = np.abs(window.x)
    arm = np.maximum(1 - ((across - 1.08 + 0.05 * (window.y - 2)) / 0.09) ** 2, 0) * ramp(window.y, 1.95, 2.35)
    return 1 - 0.28 * arm + 0.04 * np.sin(3.1 * window.x + 5 * window.y) * np.sin(2.3 * window.y)


def _cloth(scene: Scene, window: Window, hit: Hit) -> tuple[np.ndarray, np.ndarray]:
    """Colours [3, h, w] and coverage [h, w]."""
    x, y, step = window.x, window.y, window.step
    across = np.abs(x)
    albedo = _pattern(scene, x, y)
    dark = tuple(0.72 * value for value in COLOURS[scene.colour])
    second = COLOURS[scene.second_colour]

    def trim(distance: np.ndarray, colour: Colour | tuple[float, ...]) -> None:
        amount = inside(distance, step)
        for channel in range(3):
            albedo[channel] += amount * (np.float32(colour[channel]) - albedo[channel])

    def neckline(wide: float, deep: float) -> np.ndarray:
        return ellipse(x, y, (0, 1.22), (wide, deep))

    kind = scene.clothes
    if kind == "t-shirt":
        hole = neckline(0.46, 0.30)
        trim(np.abs(hole) - 0.05, dark)
        return albedo, hit.alpha * (1 - inside(hole, step))
    if kind == "tank top":
        hole = np.minimum(neckline(0.52, 0.62), 1.06 - across)
        trim(np.abs(hole) - 0.035, dark)
        return albedo, hit.alpha * (1 - inside(hole, step))
    if kind == "turtleneck":
        collar = np.maximum(across - 0.45 - 0.06 * (y - 1.1), np.abs(y - 1.26) - 0.22)
        for channel in range(3):
            albedo[channel] *= 1 - 0.12 * inside(collar, step) * (1 + np.sin(46 * x))
        return albedo, np.maximum(hit.alpha, inside(collar, step))
    if kind == "sweater":
        hole = neckline(0.43, 0.22)
        trim(np.abs(hole - 0.05) - 0.06, dark)
        albedo *= 1 + 0.06 * np.sin(40 * x) * np.sin(34 * y)
        return albedo, hit.alpha * (1 - inside(hole, step))
    if kind == "hoodie":
        hole = neckline(0.40, 0.30)
        hood = ellipse(x, y, (0, 1.22), (0.72, 0.42))
        trim(hood, dark)
        trim(hole - 0.16, COLOURS[scene.colour])
        trim(np.maximum(np.abs(across - 0.2) - 0.025, np.abs(y - 1.85) - 0.32), (0.95, 0.95, 0.93))
        trim(np.abs(np.maximum(across - 0.7, np.abs(y - 3.1) - 0.35)) - 0.02, dark)
        return albedo, np.maximum(hit.alpha, inside(hood, step)) * (1 - inside(hole, step))
    if kind == "shirt":
        hole = np.maximum(across - 0.34 * (1.75 - y) / 0.55, y - 1.75)
        trim(np.abs(x) - 0.02, dark)
        for height in (1.95, 2.35, 2.75, 3.15):
            trim(np.sqrt(x * x + (y - height) ** 2) - 0.045, (0.97, 0.97, 0.95))
        collar = np.maximum(np.abs(across - 0.36 * (1.85 - y) / 0.6) - 0.13, np.abs(y - 1.45) - 0.26)
        trim(collar - 0.025, dark)
        trim(collar, tuple(min(1.0, 1.15 * value + 0.05) for value in COLOURS[scene.colour]))
        return albedo, np.maximum(hit.alpha, inside(collar, step)) * (1 - inside(hole, step))
    # Suit and coat: open in front, with a shirt and a tie, or a sweater, below.
    deep = 2.9 if kind == "suit" else 6.0
    opening = np.maximum(across - 0.42 * np.clip((deep - y) / (deep - 1.3), 0, 1), y - deep)
    lapel = np.maximum(opening - 0.24 * ramp(y, deep + 0.1, 1.7), 1.32 - y)
    trim(lapel, dark)
    trim(np.abs(lapel) - 0.012, tuple(0.4 * value for value in COLOURS[scene.colour]))
    trim(opening, (0.96, 0.96, 0.95) if kind == "suit" else second)
    if kind == "suit":
        trim(np.maximum(across - 0.07 - 0.05 * (y - 1.45), 1.42 - y) + 1e3 * inside(-opening, step), second)
        hole = np.maximum(across - 0.26 * (1.5 - y) / 0.3, y - 1.5)
    else:
        hole = neckline(0.36, 0.26)
    return albedo, hit.alpha * (1 - inside(hole, step))


def _pattern(scene: Scene, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    first, second = COLOURS[scene.colour], COLOURS[scene.second_colour]
    if scene.pattern == "striped":
        share = ramp(np.sin(15 * y), -0.25, 0.25)
    elif scene.pattern == "polka-dot":
        across, down = np.sin(8.5 * (x + 0.02)), np.sin(8.5 * y)
        share = ramp(across * across * down * down, 0.42, 0.56)
    elif scene.pattern == "checked":
        share = 0.5 * (ramp(np.sin(9 * x), -0.2, 0.2) + ramp(np.sin(9 * y), -0.2, 0.2))
    else:
        share = np.float32(0)
    share = np.broadcast_to(share, np.broadcast_shapes(x.shape, y.shape))
    return np.stack([np.float32(a) + share * np.float32(b - a) for a, b in zip(first, second, strict=True)])


def _paint_scarf(canvas: Canvas, window: Window, colour: Colour, light: Light) -> None:
    x, y, step = window.x, window.y, window.step
    ring = ellipse(x, y, (0, 1.30), (0.66, 0.27))
    tail = np.maximum(np.abs(x - 0.3 - 0.05 * (y - 1.4)) - 0.17, np.abs(y - 1.9) - 0.62)
    tone = 1 - 0.16 * (1 + np.sin(26 * (y + 0.35 * x * x)))
    nx = np.clip(x * 0.9, -0.8, 0.8)
    nz = np.sqrt(1 - nx * nx)
    hit = Hit(inside(np.minimum(ring, tail), step), x, y, nz, (nx, np.full_like(nx, -0.1), nz))
    albedo = np.stack([tone * np.float32(value) for value in colour])
    fringe = (np.sin(60 * x) > 0.2) | (y < 2.4)
    canvas.paint(window, light.shade(hit, albedo, soft=0.35), hit.alpha * fringe)
    edge = np.abs(tail) - 0.012
    canvas.paint(window, np.asarray(colour, dtype=np.float32) * 0.5, inside(edge, step) * (y < 2.4) * 0.7)
