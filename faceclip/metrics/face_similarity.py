"""Face similarity over many images and many people: who is shown, how well, and where no face is.

Which network judges matters: one that conditioned the generator has been fooled by it in training, so its
cosine is no evidence. Every result carries the judge's name, and says whether that judge conditioned the
images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..face import Face, FaceDetector, FaceJudge, align_face, detect_faces
from ..model.encoder import FaceCLIPEncoder
from .errors import MetricError
from .intervals import Interval, cluster_bootstrap


class FaceTowerJudge:
    """FaceCLIP's own face tower as a judge: its class token.

    It conditions FaceCLIP, so it may not judge FaceCLIP unmarked.
    """

    name = "faceclip"
    # InsightFace trained the tower as it trained its packs' networks; two people's cosines are near 0.
    same_person_above = 0.35

    def __init__(self, encoder: FaceCLIPEncoder, detector: FaceDetector):
        self._encoder = encoder
        self.detector = detector

    def embed(self, image: np.ndarray, face: Face) -> np.ndarray:
        """Return the unit vector float32 [512] of `face` in `image` (uint8 [H, W, 3] RGB)."""
        crop = torch.from_numpy(align_face(image, face).image).permute(2, 0, 1)[None]
        token = self._encoder.encode_faces(crop).class_token[0, 0].float().cpu()
        return torch.nn.functional.normalize(token, dim=0).numpy()


@dataclass(frozen=True)
class FaceSimilarity:
    """How much a set of images shows the people it should show, according to one judge."""

    judge: str
    conditioned: bool
    """The judge is the network that conditioned the images: its similarity is what they were made for, no evidence."""
    similarity: Interval
    """Cosine with the right person's reference, over images with a face; interval over identities."""
    others: Interval
    """Cosine with the other people's references: what a likeness to nobody in particular scores with this judge."""
    identified: float
    """Share of images with a face that are nearest to the right person of
    all; chance is 1 / people. NaN for one person."""
    images: int
    with_face: int
    same_person_above: float

    @property
    def detection_rate(self) -> float:
        """Share of images in which a face was found; the others are counted here and nowhere else, never as 0."""
        return self.with_face / self.images


def face_vectors(
    judge: FaceJudge, images: Iterable[np.ndarray], progress: Callable[[int], None] | None = None
) -> list[np.ndarray]:
    """Return per image (uint8 [H, W, 3] RGB) the unit vectors float32 [F, D] of all its faces.

    F is 0 where none was found.

    `progress` is called with the number of images done after each one.
    """
    found = []
    for image in images:
        vectors = [judge.embed(image, face) for face in detect_faces(judge.detector, image)]
        found.append(np.stack(vectors) if vectors else np.zeros((0, 0), np.float32))
        if progress is not None:
            progress(len(found))
    return found


def likeness(faces: Sequence[np.ndarray], references: np.ndarray) -> np.ndarray:
    """Return float64 [N, P]: the cosine of image i's most similar face with person j.

    A row of NaN where there is no face.

    Args:
        faces: per image the unit vectors [F, D], as `face_vectors` makes them.
        references: unit vectors [P, D] of the people.
    """
    scores = np.full((len(faces), len(references)), math.nan)
    for row, vectors in enumerate(faces):
        if len(vectors):
            scores[row] = (vectors.astype(np.float64) @ references.astype(np.float64).T).max(axis=0)
    return scores


def summarise(
    scores: np.ndarray,
    person: Sequence[int],
    judge: FaceJudge,
    *,
    conditioned: bool,
    level: float = 0.95,
    seed: int = 0,
) -> FaceSimilarity:
    """Sum up `scores` [N, P] of `likeness`, where image i should show person `person[i]`.

    Raises:
        MetricError: no image, or no face in any of them.
    """
    own = own_scores(scores, person)
    seen = ~np.isnan(own)
    if not seen.any():
        raise MetricError(
            f"{judge.name} found no face in any of the {len(scores)} images, so there is no similarity to report. Check that "
            "these are the right pictures, upright and larger than a few hundred pixels."
        )
    people = np.asarray(person)
    strangers = scores.copy()
    strangers[np.arange(len(scores)), people] = math.nan
    alone = scores.shape[1] < 2
    between = np.full(len(scores), math.nan) if alone else _row_means(strangers)
    nearest = np.where(np.isnan(scores), -np.inf, scores).argmax(axis=1)
    return FaceSimilarity(
        judge=judge.name,
        conditioned=conditioned,
        similarity=cluster_bootstrap(own, people.tolist(), level=level, seed=seed),
        others=cluster_bootstrap(between, people.tolist(), level=level, seed=seed),
        identified=math.nan if alone else float((nearest == people)[seen].mean()),
        images=len(scores),
        with_face=int(seen.sum()),
        same_person_above=judge.same_person_above,
    )


def own_scores(scores: np.ndarray, person: Sequence[int]) -> np.ndarray:
    """Return [N]: of `scores` [N, P] each image's cosine with the person it should show; NaN without a face.

    Raises:
        MetricError: as many people as images are needed.
    """
    if len(scores) != len(person) or len(scores) == 0:
        raise MetricError(f"Every image needs the person it should show: found {len(scores)} images and {len(person)} people.")
    return scores[np.arange(len(scores)), np.asarray(person)]


def _row_means(scores: np.ndarray) -> np.ndarray:
    known = ~np.isnan(scores)
    counts = known.sum(axis=1)
    return np.where(counts > 0, np.where(known, scores, 0).sum(axis=1) / np.maximum(counts, 1), math.nan)
