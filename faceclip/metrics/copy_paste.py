"""Copy-paste: is a picture nearer to the very photograph it was made
from than another photograph of the person is?

Face similarity rewards a copied reference, pose, light and expression included. This measure tells the copy
from the person: with the angle A between the vectors of two faces, a picture g made from the reference
photograph r, and another photograph t of the same person,

    copy-paste = (A(g, t) - A(g, r)) / A(t, r)

1 is a copy of the reference, 0 a picture as far from one photograph as from the other, -1 a copy of the
photograph that the generator never saw; the triangle inequality keeps it within. It is the measure M_CP of
WithAnyone (Xu et al., arXiv 2510.14975, MultiID-Bench). With several other photographs it is their mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SAME_PHOTOGRAPH = 0.05
"""Radians between two photographs below which they are one, saved twice."""


@dataclass(frozen=True)
class CopyPasteScores:
    """Per image; NaN without a face, or without another photograph of the person."""

    copy_paste: np.ndarray
    """[N] float64 in [-1, 1]."""
    other_photographs: np.ndarray
    """[N] float64: the mean cosine with the person's other photographs, a face similarity that no copy can raise."""


def copy_paste_scores(faces: Sequence[np.ndarray], references: np.ndarray, others: Sequence[np.ndarray]) -> CopyPasteScores:
    """Score images by the photographs they were made from, and by others of the same people.

    Of several faces in an image the one nearest to all of the person's photographs together counts.

    Args:
        faces: per image the unit vectors [F, D] of all its faces, as `face_vectors` makes them.
        references: unit vectors [N, D] of the very photograph that each image was made from.
        others: per image the unit vectors [K, D] of other photographs of the person; K may be 0. One within
            SAME_PHOTOGRAPH of the reference is left out.
    """
    copied, alike = np.full(len(faces), math.nan), np.full(len(faces), math.nan)
    for image, (vectors, reference, photographs) in enumerate(zip(faces, references, others, strict=True)):
        kept = other_than(reference, photographs)
        if len(vectors) == 0 or len(kept) == 0:
            continue
        vectors, reference = vectors.astype(np.float64), reference.astype(np.float64)
        face = vectors[(vectors @ (reference + kept.mean(axis=0))).argmax()]
        to_reference, to_others, between = _angle(face @ reference), _angle(kept @ face), _angle(kept @ reference)
        copied[image] = ((to_others - to_reference) / between).mean()
        alike[image] = (kept @ face).mean()
    return CopyPasteScores(copied, alike)


def photographs_alike(references: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """Return [N]: the mean cosine of a reference with other real photographs of the person; NaN where there is none.

    What a generator that keeps the person and copies nothing may be expected to reach.

    Args:
        references: unit vectors [N, D].
        others: for each the unit vectors [K, D] of the other photographs; the reference itself is left out.
    """
    kept = [other_than(reference, photographs) for reference, photographs in zip(references, others, strict=True)]
    pairs = zip(references.astype(np.float64), kept, strict=True)
    return np.array([(photographs @ reference).mean() if len(photographs) else math.nan for reference, photographs in pairs])


def other_than(reference: np.ndarray, photographs: np.ndarray) -> np.ndarray:
    """Return those of `photographs` [K, D] that are not `reference` [D] saved again, as float64."""
    if len(photographs) == 0:
        return np.zeros((0, len(reference)))
    vectors = photographs.astype(np.float64)
    return vectors[_angle(vectors @ reference.astype(np.float64)) >= SAME_PHOTOGRAPH]


def _angle(cosine: np.ndarray) -> np.ndarray:
    return np.arccos(np.clip(cosine, -1, 1))
