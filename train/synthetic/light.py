"""Light: a key lamp and the sky's share, and what they make of a surface."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .surface import Hit


@dataclass(frozen=True, eq=False)
class Light:
    """Where light comes from and its colours."""

    direction: np.ndarray
    """Unit vector from the face to the lamp: x to the right, y down, z to the viewer."""
    key: np.ndarray
    """RGB of the lamp's light."""
    ambient: np.ndarray
    """RGB of the light from everywhere."""

    @classmethod
    def of(cls, azimuth: float, height: float, warmth: float, strength: float) -> Light:
        """Angles in radians, warmth from -1 (cold) to 1 (warm), strength of the lamp around 1."""
        direction = np.array(
            [np.sin(azimuth) * np.cos(height), -np.sin(height), np.cos(azimuth) * np.cos(height)], dtype=np.float32
        )
        tint = 1 + warmth * np.array([0.10, 0.0, -0.14])
        cool = 1 + warmth * np.array([-0.02, 0.0, 0.04])
        return cls(direction, 0.68 * strength * tint, (0.50 - 0.10 * (strength - 1)) * cool)

    def shade(self, hit: Hit, albedo: np.ndarray, gloss: float = 0.0, soft: float = 0.25) -> np.ndarray:
        """The colour [3, h, w] of a surface of `albedo` ([3] or [3, h, w])."""
        cosine = hit.lit(self.direction)
        key = np.maximum((cosine + np.float32(soft)) * np.float32(1 / (1 + soft)), 0)
        above = 1 - np.float32(0.22) * hit.normal[1]
        shaded = np.empty((3, *hit.alpha.shape), dtype=np.float32)
        for channel in range(3):
            lit = key * np.float32(self.key[channel]) + above * np.float32(self.ambient[channel])
            shaded[channel] = albedo[channel] * lit
        if gloss:
            half = self.direction + np.array([0, 0, 1], dtype=np.float32)
            half = half / np.linalg.norm(half)
            spot = np.maximum(hit.lit(half), 0)
            spot *= spot  # powers by squaring
            spot *= spot
            spot *= spot
            spot *= spot
            shaded += np.float32(gloss) * spot
        return shaded
