"""Hats, crowns and headphones on a posed head, and glasses on a face."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .canvas import Canvas, Colour, inside, mix, ramp
from .features import FacePart
from .hair import Hair
from .head import TOP
from .light import Light
from .people import Looks
from .scenes import COLOURS, Scene
from .surface import Hit, Pose, Profile, ellipsoid, meet

GOLD: Colour = (0.96, 0.76, 0.22)
STRAW: Colour = (0.90, 0.76, 0.44)


def paint_headwear(canvas: Canvas, hair: Hair, scene: Scene, light: Light) -> None:
    """What the scene's person wears on the head, if anything."""
    if scene.headwear:
        _PAINTERS[scene.headwear](_Hat(canvas, hair, light, COLOURS[scene.headwear_colour]))


class _Hat:
    """What painting headwear needs: where, on which head, in which light and colour."""

    def __init__(self, canvas: Canvas, hair: Hair, light: Light, colour: Colour):
        self.canvas, self.light, self.colour = canvas, light, np.asarray(colour, dtype=np.float32)
        self.pose: Pose = hair.head.pose
        self.wide = hair.looks.half_width + 0.05 + (hair.volume if hair.there else 0.0)
        self.deep = 0.87 + (hair.volume if hair.there else 0.0)
        self.top = TOP - 0.06 - (hair.volume if hair.there else 0.0)

    def dome(self, rim: float, colour: np.ndarray, top: float, ribs: float = 0.0, power: float = 2.3) -> Hit | None:
        """A cap over the skull, down to height `rim`."""
        y = np.linspace(top - 0.02, 0.6, 96)
        crown = np.sqrt(np.maximum(1 - np.clip(y / top, 0, 1) ** power, 0))
        profile = Profile.of(y, self.wide * crown, self.deep * crown)
        x, centre = self.pose.centre
        window = self.canvas.window(x - self.wide - 0.4, centre + top - 0.4, x + self.wide + 0.4, centre + 0.4)
        if window is None:
            return None
        hit = meet(self.pose, window, profile)
        tone = 1 + ribs * np.sin(44 * hit.x) if ribs else np.float32(1)
        shaded = self.light.shade(hit, colour[:, None, None] * tone, gloss=0.04)
        self.canvas.paint(window, shaded, hit.alpha * inside(hit.y - rim, window.step))
        return hit

    def band(self, low: float, high: float, colour: np.ndarray, grow: float = 0.02, zigzag: float = 0.0) -> None:
        """A ring around the skull between two heights, its upper edge jagged by `zigzag`."""
        y = np.linspace(high - zigzag - 0.05, low + 0.3, 48)
        level = np.ones_like(y)
        profile = Profile.of(y, (self.wide + grow) * level, (self.deep + grow) * level)
        x, centre = self.pose.centre
        reach = self.wide + grow + 0.35
        window = self.canvas.window(x - reach, centre + high - zigzag - 0.4, x + reach, centre + low + 0.4)
        if window is None:
            return
        hit = meet(self.pose, window, profile)
        points = zigzag * (np.abs((hit.x * 2.6) % 1 - 0.5) * 2) if zigzag else np.float32(0)
        cover = hit.alpha * inside(np.maximum(hit.y - low, high - points - hit.y), window.step)
        self.canvas.paint(window, self.light.shade(hit, colour, gloss=0.15 if zigzag else 0.0), cover)

    def solid(
        self, centre: tuple[float, float, float], radii: tuple[float, float, float], colour: np.ndarray, tilt: float = 0.0
    ) -> None:
        """An ellipsoid in head coordinates, tilted forwards."""
        pose = replace(self.pose, pitch=self.pose.pitch - tilt)
        x, y, _ = pose.to_scene(np.array([centre]))[0]
        reach = max(radii) + 0.05
        window = self.canvas.window(x - reach, y - reach, x + reach, y + reach)
        if window is not None:
            hit = ellipsoid(pose, window, centre, radii)
            self.canvas.paint(window, self.light.shade(hit, colour, gloss=0.05), hit.alpha)


def _beanie(hat: _Hat) -> None:
    hat.solid((0, hat.top - 0.12, 0), (0.2, 0.19, 0.2), np.minimum(hat.colour * 1.2 + 0.08, 1))
    hat.dome(-0.45, hat.colour, hat.top - 0.1, ribs=0.10)
    hat.band(-0.42, -0.64, hat.colour * 0.8, grow=0.0)


def _cap(hat: _Hat) -> None:
    hat.dome(-0.42, hat.colour, hat.top - 0.02)
    hat.solid((0, -0.50, 0.85), (0.62, 0.05, 0.50), hat.colour * 0.75, tilt=0.22)
    hat.solid((0, hat.top - 0.02, 0), (0.06, 0.04, 0.06), hat.colour * 0.7)


def _straw(hat: _Hat) -> None:
    straw = np.asarray(STRAW, dtype=np.float32)
    hat.solid((0, -0.52, 0), (hat.wide + 0.62, 0.06, hat.deep + 0.5), straw * 0.94, tilt=0.16)
    hat.dome(-0.50, straw, hat.top - 0.12, ribs=0.05, power=3.5)
    hat.band(-0.50, -0.66, hat.colour, grow=0.0)


def _top_hat(hat: _Hat) -> None:
    hat.solid((0, -0.55, 0), (hat.wide + 0.34, 0.06, hat.deep + 0.28), hat.colour * 0.9, tilt=0.14)
    hat.band(-0.55, -1.75, hat.colour, grow=0.0)
    hat.solid((0, -1.75, 0), (hat.wide, 0.05, hat.deep), hat.colour * 1.15 + 0.03, tilt=0.1)
    hat.band(-0.57, -0.78, hat.colour * 0.35 + 0.02, grow=0.012)


def _hard_hat(hat: _Hat) -> None:
    hat.solid((0, -0.46, 0.12), (hat.wide + 0.16, 0.05, hat.deep + 0.26), hat.colour * 0.85, tilt=0.14)
    hat.dome(-0.45, hat.colour, hat.top - 0.12, power=2.6)
    hat.solid((0, hat.top * 0.80, 0.1), (0.08, 0.30, 0.74), hat.colour * 0.86)


def _crown(hat: _Hat) -> None:
    gold = np.asarray(GOLD, dtype=np.float32)
    hat.band(-0.55, -0.95, gold, grow=0.03, zigzag=0.38)
    for x in (-0.38, 0.0, 0.38):
        z = (max(1 - (x / hat.wide) ** 2, 0)) ** 0.5 * hat.deep
        hat.solid((x, -0.70, z), (0.07, 0.07, 0.05), np.asarray(COLOURS["red"], dtype=np.float32))


def _headphones(hat: _Hat) -> None:
    y = np.linspace(hat.top - 0.12, 0.4, 96)
    crown = np.sqrt(np.maximum(1 - np.clip(y / (hat.top - 0.08), 0, 1) ** 2.3, 0))
    profile = Profile.of(y, (hat.wide + 0.06) * crown, (hat.deep + 0.06) * crown)
    x, centre = hat.pose.centre
    window = hat.canvas.window(x - hat.wide - 0.4, centre + hat.top - 0.35, x + hat.wide + 0.4, centre + 0.45)
    if window is not None:
        hit = meet(hat.pose, window, profile)
        cover = hit.alpha * inside(np.maximum(np.abs(hit.z) - 0.24, hit.y - 0.05), window.step)
        hat.canvas.paint(window, hat.light.shade(hit, hat.colour * 0.8, gloss=0.1), cover)
    for side in (-1, 1):
        hat.solid((side * (hat.wide + 0.02), 0.08, 0.05), (0.16, 0.30, 0.25), hat.colour)
        hat.solid((side * (hat.wide + 0.10), 0.08, 0.05), (0.10, 0.19, 0.16), hat.colour * 0.55 + 0.05)


_PAINTERS = {
    "beanie": _beanie,
    "baseball cap": _cap,
    "straw hat": _straw,
    "top hat": _top_hat,
    "hard hat": _hard_hat,
    "crown": _crown,
    "headphones": _headphones,
}


def paint_glasses(picture: np.ndarray, hit: Hit, looks: Looks, shape: str, colour: Colour) -> None:
    """Frames around the eyes, a bridge and temples, over the shaded face [3, h, w]."""
    reach = looks.eye_x + 0.34
    part = FacePart(hit, -reach, -0.32, reach, 0.38)
    if part.empty:
        return
    across, y = np.abs(part.x), part.y - 0.03
    power = 2 if shape == "round" else 6
    wide, high = min(0.235, looks.eye_x - 0.035), 0.21 if shape == "round" else 0.175
    far = ((np.abs(across - looks.eye_x) / wide) ** power + (np.abs(y) / high) ** power) ** (1 / power)
    rim = (far - 1) * high
    under = part.of(picture)
    mix(under, (0.92, 0.97, 1.0), 0.08 * inside(rim, part.step) * part.front)
    slanted = np.abs(across - looks.eye_x + 0.08 - 0.7 * part.y)
    mix(under, (1.0, 1.0, 1.0), 0.16 * inside(rim + 0.05, part.step) * ramp(slanted, 0.045, 0.03) * part.front)
    bridge = np.maximum(across - looks.eye_x + wide, np.abs(y + 0.05) - 0.022)
    temple = np.maximum(looks.eye_x + wide - 0.02 - across, np.abs(y + 0.03) - 0.026)
    frame = np.minimum(np.minimum(np.abs(rim) - 0.026, bridge), temple)
    mix(under, colour, inside(frame, part.step) * part.front)
