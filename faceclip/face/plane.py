"""Points and boxes of pictures, for the pack's own detector; points are complex numbers, x + iy."""

from __future__ import annotations

import numpy as np

SAME_FACE = 0.4  # intersection over union of two boxes


def turned_back(points: np.ndarray, quarters: int, width: int, height: int) -> np.ndarray:
    """Points of a picture that `rot90` has turned, where they were when it was `width` x `height`; complex, x + iy."""
    middle = complex(width - 1, height - 1) / 2
    turned_middle = complex(height - 1, width - 1) / 2 if quarters % 2 else middle
    return (points - turned_middle) * 1j**quarters + middle


def box_of(corners: np.ndarray) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 around points (complex, x + iy)."""
    x, y = np.real(corners), np.imag(corners)
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def fit(points: np.ndarray, template: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factors a [n] and shifts b [n], complex, that take `points` [n, 5]
    nearest to `template` [5]: a z + b, least squares."""
    middle = points.mean(1, keepdims=True)
    away, wanted = points - middle, template - template.mean()
    a = (away.conj() * wanted).sum(1) / np.maximum((np.abs(away) ** 2).sum(1), 1e-9)
    return a, template.mean() - a * middle[:, 0]


def once(boxes: np.ndarray, scores: np.ndarray) -> list[int]:
    """Indices of boxes [n, 4], surest first, without those that mostly cover a surer one."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order):
        first, rest = order[0], order[1:]
        kept.append(int(first))
        common = np.minimum(boxes[first, 2:], boxes[rest, 2:]) - np.maximum(boxes[first, :2], boxes[rest, :2])
        common = np.clip(common, 0, None).prod(1)
        order = rest[common <= SAME_FACE * (area[first] + area[rest] - common)]
    return kept
