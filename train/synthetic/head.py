"""Heads: their surface, skin, ears and neck.

Features are functions of the head's own coordinates, so that they turn with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from .canvas import Canvas, blob, ellipse, inside, ramp
from .features import Expression, paint_brows, paint_eyes, paint_mouth
from .light import Light
from .people import Looks
from .surface import Hit, Pose, Profile, ellipsoid, meet

TOP = -1.0
_HEIGHTS = np.linspace(-1.05, 1.35, 193)


class Head:
    """A person's head in one pose and expression."""

    def __init__(self, looks: Looks, pose: Pose, expression: Expression):
        self.looks = looks
        self.pose = pose
        self.expression = expression
        self.chin = looks.chin + 0.10 * expression.open
        self.profile = Profile.of(_HEIGHTS, *head_outline(looks, _HEIGHTS, self.chin))

    def relief(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """How far the face stands out from its round base, along z."""
        looks = self.looks
        up = ramp(y, -0.12, looks.nose_tip) * (1 - ramp(y, looks.nose_tip - 0.01, looks.nose_tip + 0.11))
        wide = 0.055 + (0.45 * looks.nose_width) * ramp(y, -0.05, looks.nose_tip)
        relief = 0.20 * up * np.exp(-((x / wide) ** 2))
        mirrored = np.abs(x)
        relief += 0.07 * blob(mirrored, y, (0.72 * looks.nose_width, looks.nose_tip + 0.025), (0.05, 0.055))
        relief += 0.035 * blob(mirrored, y, (looks.eye_x, looks.eye_y - 0.2), (0.22, 0.07))
        relief -= 0.05 * blob(mirrored, y, (looks.eye_x, looks.eye_y), (0.19, 0.11))
        relief += 0.04 * blob(x, y, (0.0, self.looks.mouth_y), (0.24, 0.12))
        relief += 0.04 * blob(x, y, (0.0, self.chin - 0.14), (0.17, 0.10))
        cheek = 0.03 + 0.02 * looks.cheeks + 0.035 * max(0.0, self.expression.smile)
        relief += cheek * blob(mirrored, y, (0.36, 0.33), (0.16, 0.15))
        return relief

    def on_face(self, places: Sequence[tuple[float, float]]) -> np.ndarray:
        """The scene points [n, 2] where the face's surface shows what is at (x, y) of the head."""
        pose = self.pose
        (c, s), (cp, sp), (cr, sr) = ((math.cos(angle), math.sin(angle)) for angle in (pose.yaw, pose.pitch, pose.roll))
        reliefs = self.relief(*np.array(places, dtype=np.float32).T).tolist()
        found = []
        for (x, y), relief in zip(places, reliefs, strict=True):
            height, ahead = y, 0.0
            for _ in range(12):  # the height on the body whose surface, rolled by the pitch, shows y
                ahead = self.profile.ahead(x, height) + relief
                height = (y - sp * ahead) / cp
            across = c * x + s * ahead
            found.append((cr * across - sr * height + pose.centre[0], sr * across + cr * height + pose.centre[1]))
        return np.array(found)

    def landmarks(self) -> np.ndarray:
        """Scene points [5, 2]: eye centres, nose tip, mouth corners, each from the picture's left to its right."""
        looks, expression = self.looks, self.expression
        corner_x, corner_y = expression.mouth_corner(looks)
        places = [
            (-looks.eye_x, looks.eye_y),
            (looks.eye_x, looks.eye_y),
            (0.0, looks.nose_tip),
            (-corner_x, corner_y),
            (corner_x, corner_y),
        ]
        return self.on_face(places)


def head_outline(looks: Looks, y: np.ndarray, chin: float) -> tuple[np.ndarray, np.ndarray]:
    """Half width and half depth of a head at heights `y`."""
    up = np.clip(-y / -TOP, 0, 1)
    down = np.clip(y / chin, 0, 1)
    crown = np.sqrt(np.maximum(1 - up**2.4, 0))
    power = 2.0 + 1.2 * looks.jaw
    jaw = np.maximum(1 - down**power, 0) ** (0.72 - 0.20 * looks.jaw)
    full = 1 + 0.05 * looks.cheeks * np.exp(-(((y - 0.45) / 0.3) ** 2))
    width = looks.half_width * np.where(y < 0, crown, jaw * full)
    depth = np.where(y < 0, 0.82 * crown, 0.82 * np.maximum(1 - down**4.5, 0) ** 0.55 * (1 - 0.12 * down))
    return width, depth


def paint_head(canvas: Canvas, head: Head, light: Light, finish: Callable[[np.ndarray, Hit], None]) -> None:
    """Ears, then the face with all its features; `finish` adds to the shaded face what is not its own."""
    looks, pose = head.looks, head.pose
    for side in (-1, 1):
        _paint_ear(canvas, head, light, side)
    x, y = pose.centre
    window = canvas.window(x - 1.15, y - 1.3, x + 1.15, y + 1.45)
    if window is None:
        return
    hit = meet(pose, window, head.profile, head.relief)
    skin = _skin(head, hit)
    paint_brows(skin, hit, looks, head.expression)
    shaded = light.shade(hit, skin, gloss=0.10)
    shaded *= _hollows(head, hit)
    paint_mouth(shaded, hit, looks, head.expression, light)
    paint_eyes(shaded, hit, looks, head.expression, light)
    finish(shaded, hit)
    canvas.paint(window, shaded, hit.alpha)


def _skin(head: Head, hit: Hit) -> np.ndarray:
    """The face's own colours [3, h, w]."""
    looks, x, y = head.looks, hit.x, hit.y
    mirrored = np.abs(x)
    skin = np.repeat(looks.skin.astype(np.float32), x.size).reshape(3, *x.shape)
    flush = blob(mirrored, y, (0.38, 0.34), (0.2, 0.16)) + 0.6 * blob(x, y, (0, looks.nose_tip), (0.13, 0.1))
    skin[1] *= 1 - 0.13 * flush
    skin[2] *= 1 - 0.12 * flush
    if looks.freckles:
        _darken(skin, looks.freckles * 0.55 * _freckles(mirrored + 0.013 * (x > 0), y), looks.skin * (0.62, 0.45, 0.36))
    if looks.mole:
        spot = inside(ellipse(x, y, looks.mole_at, (0.035, 0.035)), 0.02)
        _darken(skin, looks.mole * 0.85 * spot, (0.16, 0.09, 0.07))
    if looks.beard:
        _darken(skin, _beard(head, x, y), looks.hair * 0.9)
    return skin


def _darken(skin: np.ndarray, amount: np.ndarray, colour: np.ndarray | tuple[float, float, float]) -> None:
    for channel in range(3):
        skin[channel] += amount * (np.float32(colour[channel]) - skin[channel])


def _freckles(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A fixed sprinkle over nose and cheeks."""
    dots = np.sin(47 * x + 9 * y) * np.sin(41 * y - 13 * x) + 0.35 * np.sin(83 * x) * np.sin(71 * y)
    return ramp(dots, 0.45, 0.75) * blob(x, y, (0.25, 0.24), (0.28, 0.16))


def _beard(head: Head, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    looks = head.looks
    mouth_y = looks.mouth_y
    mirrored = np.abs(x)
    # From the sideburns down along the cheeks, around the mouth, over the chin.
    edge = mouth_y - 0.02 - 0.75 * np.maximum(mirrored - 0.3, 0) ** 0.8 + 0.10 * (mirrored < 0.3)
    cover = ramp(y - edge, -0.02, 0.10)
    moustache = inside(ellipse(mirrored, y + 0.22 * mirrored, (0.10, mouth_y - 0.085), (0.20, 0.055)), 0.05)
    bare = inside(ellipse(x, y, (0, mouth_y + 0.015), (looks.mouth_width * 0.92, 0.085)), 0.04)
    grain = 0.88 + 0.12 * np.sin(61 * x + 7 * y) * np.sin(53 * y)
    return np.maximum(cover * (1 - bare), moustache) * grain * min(1.0, 0.35 + 0.75 * looks.beard)


def _hollows(head: Head, hit: Hit) -> np.ndarray:
    """Where little light gets to: around the eyes, beside and under the nose, under the lip, towards the edge."""
    looks, x, y = head.looks, hit.x, hit.y
    mirrored = np.abs(x)
    dark = 0.20 * blob(mirrored, y, (looks.eye_x, looks.eye_y - 0.06), (0.2, 0.12))
    dark += 0.16 * blob(mirrored, y, (looks.eye_x - 0.16, looks.eye_y - 0.02), (0.06, 0.14))
    dark += 0.30 * blob(x, y, (0, looks.nose_tip + 0.105), (0.85 * looks.nose_width, 0.04))
    dark += 0.16 * blob(mirrored, y, (looks.nose_width * 1.25, looks.nose_tip), (0.045, 0.09))
    dark += 0.14 * blob(x, y, (0, looks.mouth_y + looks.lips + 0.09), (0.16, 0.04))
    nostril = inside(ellipse(mirrored, y, (0.5 * looks.nose_width, looks.nose_tip + 0.068), (0.036, 0.022)), hit.step)
    dark = np.maximum(dark, 0.62 * nostril)
    rim = 1 - np.maximum(hit.normal[2], 0)
    return 1 - np.minimum(dark + 0.22 * rim * rim, 0.8)


def _paint_ear(canvas: Canvas, head: Head, light: Light, side: int) -> None:
    looks, pose = head.looks, head.pose
    centre = (side * (0.985 * looks.half_width), 0.08, -0.06)
    x, y, depth = pose.to_scene(np.array([centre]))[0]
    window = canvas.window(x - 0.3, y - 0.35, x + 0.3, y + 0.35)
    if window is None or depth < -0.5:
        return
    hit = ellipsoid(pose, window, centre, (0.085, 0.19, 0.12))
    inner = blob(hit.y - centre[1], hit.z - centre[2], (-0.01, 0.02), (0.11, 0.07))
    skin = looks.skin[:, None, None].astype(np.float32) * (1 - 0.35 * inner) * np.array([1.0, 0.9, 0.88])[:, None, None]
    canvas.paint(window, light.shade(hit, skin.astype(np.float32)), hit.alpha)


def paint_neck(canvas: Canvas, looks: Looks, pose: Pose, light: Light, foot: float) -> None:
    """From inside the head down to height `foot` of the scene, where the body is upright."""
    x, y = pose.centre
    chin_x, chin_y = pose.to_scene(np.array([[0, looks.chin, 0.2]]))[0, :2]
    window = canvas.window(min(x, 0) - 0.75, y + 0.3, max(x, 0) + 0.75, foot)
    if window is None:
        return
    down = np.clip((window.y - y - 0.4) / (foot - y - 0.4), 0, 1)
    across = window.x - (0.6 * x + 0.4 * chin_x) * (1 - down)
    half = 0.34 * (0.75 + 0.35 * looks.half_width) + 0.05 * ramp(down, 0.5, 1.0)
    sideways = np.clip(across / half, -1, 1)
    front = np.sqrt(1 - 0.85 * sideways**2)
    hit = Hit(inside(np.abs(across) - half, window.step), across, window.y, front, (sideways * 0.9, 0 * front + 0.1, front))
    shaded = light.shade(hit, looks.skin.astype(np.float32))
    shadow = 1 - 0.45 * (1 - ramp(window.y - chin_y, -0.05, 0.33))
    canvas.paint(window, shaded * shadow, hit.alpha)
