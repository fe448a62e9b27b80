"""Heads as surfaces: what a ray from the viewer meets on a posed, turned body of elliptic cross-sections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .canvas import Window, between_0_and_1

Bump = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Pose:
    """Where a head is and how it is turned, in radians.

    Positive yaw looks to the picture's right, positive pitch up, positive roll tips clockwise.
    """

    yaw: float
    pitch: float
    roll: float
    centre: tuple[float, float] = (0.0, 0.0)

    @cached_property
    def matrix(self) -> np.ndarray:
        """[3, 3]: head coordinates -> scene coordinates, before the shift to `centre`."""
        (c, s), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (self.yaw, self.pitch, self.roll))
        yaw = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        return roll @ yaw @ pitch

    def to_scene(self, points: np.ndarray) -> np.ndarray:
        """Head points [n, 3] -> scene points [n, 3]; z is the depth towards the viewer."""
        return np.asarray(points) @ self.matrix.T + (*self.centre, 0.0)

    def unrolled(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """The window's coordinates seen from a head that is not tipped, [h, w] each."""
        x, y = window.x - np.float32(self.centre[0]), window.y - np.float32(self.centre[1])
        c, s = np.float32(np.cos(self.roll)), np.float32(np.sin(self.roll))
        return c * x + s * y, c * y - s * x


@dataclass(frozen=True, eq=False)
class Profile:
    """A body's half widths and half depths by height, at even steps from `top`; 0 beyond them."""

    top: float
    step: float
    width: np.ndarray
    depth: np.ndarray

    @classmethod
    def of(cls, y: np.ndarray, width: np.ndarray, depth: np.ndarray) -> Profile:
        """From half widths and depths at evenly spaced heights."""
        return cls(float(y[0]), float(y[1] - y[0]), np.maximum(width, 3e-3), np.maximum(depth, 3e-3))

    def at(self, y: np.ndarray, tables: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The tables' values at heights `y`, linear between the steps."""
        place = (y - np.float32(self.top)) * np.float32(1 / self.step)
        place = np.minimum(np.maximum(place, 0), np.float32(len(self.width) - 1.001))
        first = place.astype(np.int32)
        place -= first
        values = []
        for table in tables:
            table = table.astype(np.float32)
            slope = np.diff(table, append=table[-1:])
            value = np.take(slope, first)
            value *= place
            value += np.take(table, first)
            values.append(value)
        return values

    def ahead(self, x: float, y: float) -> float:
        """How far the surface lies in front of the axis at one place."""
        place = min(max((y - self.top) / self.step, 0.0), len(self.width) - 1.001)
        first = int(place)
        part = place - first
        w2 = (1 - part) * self.width[first] ** 2 + part * self.width[first + 1] ** 2
        d2 = (1 - part) * self.depth[first] ** 2 + part * self.depth[first + 1] ** 2
        return float(max(d2 * (1 - x * x / w2), 0.0) ** 0.5)


@dataclass(frozen=True, eq=False)
class Hit:
    """What each pixel's ray meets: coverage, head coordinates, and the normal in scene coordinates, all [h, w]."""

    alpha: np.ndarray
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    normal: tuple[np.ndarray, np.ndarray, np.ndarray]
    step: float = 0.0
    """Scene units per pixel."""

    def lit(self, direction: np.ndarray) -> np.ndarray:
        """Cosine of normal and light direction (from the surface to the light, scene coordinates)."""
        nx, ny, nz = self.normal
        return nx * np.float32(direction[0]) + ny * np.float32(direction[1]) + nz * np.float32(direction[2])


def meet(pose: Pose, window: Window, profile: Profile, bump: Bump | None = None) -> Hit:
    """Follow the window's rays to the surface.

    Cross-sections are ellipses, which a ray meets in closed form. Yaw turns the body; pitch rolls what is painted
    on it and its relief over the body, whose outline stays: for the small pitch of a portrait they look alike,
    and no ray is lost. Relief (`bump`, along z) shifts the depth, and with it the place that is met; two rounds
    settle both.
    """
    x, y = pose.unrolled(window)
    c, s = np.float32(np.cos(pose.yaw)), np.float32(np.sin(pose.yaw))
    cp, sp = np.float32(np.cos(pose.pitch)), np.float32(np.sin(pose.pitch))
    # d2 (c x - s Z)^2 + w2 (s x + c Z)^2 = w2 d2 has the depth Z = slide x + swell sqrt(edge^2 - x^2), by the height alone.
    w2, d2 = profile.width**2, profile.depth**2
    edge2 = s * s * d2 + c * c * w2
    edge = np.sqrt(edge2)
    steep = 1 / (window.step * np.sqrt(1 + np.gradient(edge, profile.step) ** 2))
    edge2, slide, swell, steep = profile.at(y, (edge2, c * s * (d2 - w2) / edge2, np.sqrt(w2 * d2) / edge2, steep))
    room = edge2 - x * x
    # sqrt(edge^2) - |x| is about (edge^2 - x^2) / (2 |x|) at the edge: no second root.
    alpha = between_0_and_1(0.5 + room * steep / (2 * np.abs(x) + window.step)) * (edge2 > 2e-5)
    depth = slide * x + swell * np.sqrt(np.maximum(room, 0))
    if bump is not None:
        shift = np.float32(0.0)
        for _ in range(1 if c > 0.995 else 2):
            ahead = s * x + c * (depth + shift)
            relief = bump(c * x - s * (depth + shift), cp * y + sp * ahead) * (1 / c)
            shift = relief if c > 0.99 else 0.4 * shift + 0.6 * relief
        depth = depth + shift
    ahead = s * x + c * depth
    return Hit(alpha, c * x - s * depth, cp * y + sp * ahead, cp * ahead - sp * y, _normals(depth, window.step), window.step)


def _normals(depth: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    half = np.float32(-0.5 / step)
    nx, ny = np.zeros_like(depth), np.zeros_like(depth)
    np.subtract(depth[:, 2:], depth[:, :-2], out=nx[:, 1:-1])
    np.subtract(depth[2:], depth[:-2], out=ny[1:-1])
    nx *= half
    ny *= half
    norm = 1 / np.sqrt(nx * nx + ny * ny + 1)
    nx *= norm
    ny *= norm
    return nx, ny, norm


def ellipsoid(pose: Pose, window: Window, centre: tuple[float, float, float], radii: tuple[float, float, float]) -> Hit:
    """Follow the window's rays to an ellipsoid whose axes are the head's."""
    turn = pose.matrix.astype(np.float32)
    rx, ry = window.x - np.float32(pose.centre[0]), window.y - np.float32(pose.centre[1])
    inverse = 1 / np.asarray(radii, dtype=np.float32)
    # A scene point p has the unit-sphere coordinates m p - o; along a ray only its z changes.
    m = turn.T * inverse[:, None]
    o = np.asarray(centre, dtype=np.float32) * inverse
    p = [m[k, 0] * rx + m[k, 1] * ry - o[k] for k in range(3)]
    a = float((m[:, 2] ** 2).sum())
    b = sum(m[k, 2] * p[k] for k in range(3))
    room = b * b - a * (sum(value * value for value in p) - 1)
    depth = (np.sqrt(np.maximum(room, 0)) - b) / a
    unit = [p[k] + m[k, 2] * depth for k in range(3)]
    # The gradient of |m p - o|^2 is the normal.
    normal = [sum(m[k, axis] * unit[k] for k in range(3)) for axis in range(3)]
    norm = 1 / np.sqrt(normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2 + 1e-9)
    fall_y, fall_x = np.gradient(room)
    alpha = between_0_and_1(0.5 + room / (np.abs(fall_x) + np.abs(fall_y) + 1e-6))
    local = [unit[k] / inverse[k] + centre[k] for k in range(3)]
    return Hit(alpha, local[0], local[1], local[2], (normal[0] * norm, normal[1] * norm, normal[2] * norm))
