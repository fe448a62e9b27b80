"""Hair: a shell around the head with an opening for the face, and what hangs behind."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas, blob, inside, ramp
from .head import TOP, Head, head_outline
from .light import Light
from .people import Looks
from .surface import Hit, Profile, meet

BALD = -1.0
_STEPS = 160


class Hair:
    """A person's hair on a posed head."""

    def __init__(self, head: Head, flat: bool = False):
        """`flat` hair is pressed down by what is worn on it."""
        looks = head.looks
        self.head, self.looks = head, looks
        self.there = looks.hair_length > BALD
        # Cropped hair lies closer.
        self.volume = looks.hair_volume * float(np.interp(looks.hair_length, [-1.0, -0.3, 0.2], [0.25, 0.75, 1.0]))
        self.volume = min(self.volume, 0.11) if flat else self.volume
        self.end = max(looks.hair_length, 0.02)
        self.profile = self._profile(looks)

    def _profile(self, looks: Looks) -> Profile:
        top = TOP - self.volume
        y = np.linspace(top - 0.02, self.end + 0.05, _STEPS)
        up = np.clip(y / top, 0, 1)
        crown = np.sqrt(np.maximum(1 - up**2.3, 0))
        hang = float(ramp(np.array(looks.hair_length), 0.1, 0.9))
        own = head_outline(looks, y, self.head.chin)
        # Short hair follows the head and ends close to it, long hair falls from its widest place and flares.
        close = 1 - 0.75 * ramp(y, looks.hair_length - 0.45, looks.hair_length)
        fall = 1 + 0.14 * np.clip(y / max(self.end, 0.3), 0, 1)
        tip = np.sqrt(np.maximum(1 - np.clip((y - self.end + 0.2) / 0.25, 0, 1) ** 2, 0))
        curls = 1 + 0.045 * looks.curl**2 * np.sin(21 * y) * ramp(y, top, top + 0.3)
        sizes = []
        for half, outline in zip((looks.half_width, 0.82), own, strict=True):
            short = np.where(y < 0, (half + self.volume) * crown, 0)
            near = np.maximum(outline, half * crown) * (y < 0) + outline * (y >= 0) + self.volume * close
            short = np.where(y < 0, np.minimum(short, near), near)
            long = (half + self.volume) * np.where(y < 0, crown, fall * tip)
            sizes.append((short + hang * (long - short)) * curls)
        width, depth = sizes
        return Profile.of(y, width, depth)

    def opening(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """About the signed distance to the edge of the face's opening in the hair, negative where the face shows."""
        looks = self.looks
        swept = x - 0.25 * looks.parting
        line = looks.hairline + 0.16 * looks.parting * x
        wide = 0.93 * looks.half_width
        high = 0.12 - line
        across = np.abs(x) * (1 / wide)
        # A parting pulls the middle of the hairline up to a point.
        peak = 0.10 * ramp(np.array(looks.hair_length), 0.1, 0.6) * np.exp(-((swept * 4) ** 2))
        up = np.maximum(0.12 - y - peak, 0) / high
        across2, up2 = across * across, up * up
        distance = (np.sqrt(np.sqrt(across2 * across2 + up2 * up2)) - 1) * min(wide, 0.6)
        return distance + 0.012 * np.sin(31 * x + 5 * looks.parting) + 0.015 * looks.curl * np.sin(53 * x + 20 * y)

    def shadow(self, hit: Hit) -> np.ndarray:
        """How much light hair leaves to the face below it, [h, w]."""
        if not self.there:
            return np.ones_like(hit.x)
        return 1 - 0.38 * ramp(self.opening(hit.x, hit.y - 0.06), -0.16, 0.03)


class HairLayers:
    """Hair as a canvas shows it: the rays are followed once for both of its layers."""

    def __init__(self, canvas: Canvas, hair: Hair, light: Light):
        self._canvas, self._hair, self._light = canvas, hair, light
        x, y = hair.head.pose.centre
        wide = hair.looks.half_width + hair.volume + 0.2 + 0.12 * max(hair.end, 0)
        top, bottom = y + TOP - hair.volume - 0.15, y + hair.end + 0.25
        self._window = canvas.window(x - wide, top, x + wide, bottom) if hair.there else None
        if self._window is not None:
            self._hit = meet(hair.head.pose, self._window, hair.profile)
            self._colours = _colours(hair, self._hit, light)

    def paint_back(self) -> None:
        """What hangs behind neck and shoulders."""
        if self._window is not None and self._hair.looks.hair_length >= 0.05:
            self._canvas.paint(self._window, 0.55 * self._colours, self._hit.alpha)

    def paint_front(self) -> None:
        """What lies on the head and beside the face."""
        if self._window is None:
            return
        hit, length = self._hit, self._hair.looks.hair_length
        open_face = self._hair.opening(hit.x, hit.y)
        ends = hit.y - length - 0.05 * np.sin(23 * hit.x) * (length > 0)
        cover = hit.alpha * inside(np.maximum(-open_face, ends), 2 * self._window.step)
        self._canvas.paint(self._window, self._colours * (1 - 0.25 * ramp(open_face, 0.10, 0.0)), cover)


def _colours(hair: Hair, hit: Hit, light: Light) -> np.ndarray:
    looks = hair.looks
    flow = hit.x + 0.25 * looks.parting
    wave = 5 * looks.curl * np.sin(9 * hit.y + 6 * hit.x)
    strands = np.sin(38 * flow + 4 * hit.y + wave) + 0.6 * np.sin(83 * flow - 7 * hit.y + 1.7 * wave)
    albedo = looks.hair[:, None, None] * (1 + (0.10 + 0.05 * looks.curl) * strands)
    shaded = light.shade(hit, albedo, soft=0.4)
    towards = float(light.direction[0])
    band = blob(hit.normal[0] - 0.35 * towards, hit.normal[1] + 0.55, (0, 0), (0.55, 0.16))
    sheen = (0.13 + 0.10 * (1 - looks.curl)) * band * (1 + 0.45 * strands)
    tint = 0.45 * looks.hair + 0.5
    for channel in range(3):
        shaded[channel] += np.float32(tint[channel]) * sheen
    return shaded
