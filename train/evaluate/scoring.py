"""Score folders of images, row by row of one protocol: faces, prompts,
references, and the whole against real pictures."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, device, stack

from faceclip.face import FaceJudge, NoFaceError, load_photo
from faceclip.face.similarity import reference_embedding
from faceclip.metrics import (
    ClipScorer,
    DistributionScores,
    FaceSimilarity,
    Interval,
    cluster_bootstrap,
    compare_distributions,
    copy_paste_scores,
    extract_features,
    face_vectors,
    likeness,
    own_scores,
    paired_cosine,
    photographs_alike,
    summarise,
)

from ..run.ranks import Ranks
from .protocol import EvaluationProtocol, ProtocolError, Row, list_pictures

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""


@dataclass(frozen=True)
class Candidate:
    """A folder of images, what to call it, and the face network that conditioned them ("" if that was not said)."""

    name: str
    folder: Path
    conditioned_by: str = ""

    def conditioned_on(self, judge: str) -> bool:
        """Did this judge condition the images? `insightface` stands for any of its packs."""
        return bool(self.conditioned_by) and self.conditioned_by in (judge, judge.split()[0])


@dataclass(frozen=True)
class Comparison:
    """The real pictures that FID and KID compare with, and how."""

    real: Path
    extractor: Any
    """A torch-fidelity extractor, or a ClipScorer."""
    features: str
    """What the extractor is called in results."""
    images: int = 0
    """How many pictures of each side; 0 takes the most that every side has."""
    kid_subset: int = 1000


@dataclass(frozen=True)
class Tools:
    """What judges. Each part may be missing; its numbers then are, too."""

    faces: Sequence[FaceJudge] = ()
    clip: ClipScorer | None = None
    comparison: Comparison | None = None
    level: float = 0.95
    seed: int = 0
    progress: Progress = lambda what, done, total: None
    other_photos: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    """Per person photographs beside the references, for copy-paste; without any it is not measured."""
    ranks: Ranks = field(default_factory=lambda: Ranks(0, 1, device("cpu")))
    """Who shares the work. Every rank calls `score` with the same arguments, and gets the same numbers."""


@dataclass(frozen=True)
class FolderScores:
    """One candidate's numbers: summed up, and per row where a row has one (NaN where not)."""

    candidate: Candidate
    images: tuple[Path, ...]
    faces: dict[str, FaceSimilarity] = field(default_factory=dict)
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    """`face NAME`, `copy-paste NAME`, `other photos NAME`, `CLIP-T` and `CLIP-I`: [N] float64."""
    means: dict[str, Interval] = field(default_factory=dict)
    """Of `rows`, by name."""
    distribution: DistributionScores | None = None
    photos_alike: dict[str, Interval] = field(default_factory=dict)
    """Per judge the cosine of two real photographs of one person: what `face` and `other photos` are read beside."""
    clip: str = ""
    """The CLIP model that measured, and"""
    features: str = ""
    """the features that FID and KID compare."""


def score(
    protocol: EvaluationProtocol, candidates: Sequence[Candidate], images: Sequence[Sequence[Path]], tools: Tools
) -> list[FolderScores]:
    """Score every candidate; `images` holds, for each, the picture of each of the protocol's rows.

    Raises:
        ProtocolError: a reference without a face, or nothing to measure.
        MetricError: no face in any image, too few images for KID.
    """
    people = protocol.people
    if tools.faces and not people:
        raise ProtocolError(f"{protocol.name} has no reference, so no face similarity can be measured: leave out --judges.")
    distributions = _distributions(candidates, images, tools)
    results = []
    for candidate, paths, distribution in zip(candidates, images, distributions, strict=True):
        result = FolderScores(
            candidate,
            tuple(paths),
            distribution=distribution,
            clip=tools.clip.name if tools.clip else "",
            features=tools.comparison.features if tools.comparison else "",
        )
        for judge in tools.faces:
            _score_faces(result, judge, protocol, tools)
        if tools.clip is not None:
            _score_clip(result, tools.clip, protocol.rows, tools)
        clusters = _clusters(protocol.rows)
        for name, values in result.rows.items():
            result.means[name] = cluster_bootstrap(values, clusters, level=tools.level, seed=tools.seed)
        results.append(result)
    return results


def differences(first: FolderScores, other: FolderScores, rows: Sequence[Row], tools: Tools) -> dict[str, Interval]:
    """`other` less `first`, row by row where both have a number: the interval of what changes, over identities."""
    clusters = _clusters(rows)
    return {
        name: cluster_bootstrap(other.rows[name] - first.rows[name], clusters, level=tools.level, seed=tools.seed)
        for name in first.rows
    }


def _score_faces(result: FolderScores, judge: FaceJudge, protocol: EvaluationProtocol, tools: Tools) -> None:
    people = protocol.people
    numbers = {name: number for number, name in enumerate(people)}
    references = np.stack(
        tools.ranks.deal(list(people.items()), lambda own: [_reference(judge, name, photos) for name, photos in own])
    )
    rows = [index for index, row in enumerate(protocol.rows) if row.reference is not None]
    paths = [result.images[index] for index in rows]
    label = f"{result.candidate.name}: {judge.name}"
    found = _each(tools, label, paths, lambda pictures, tell: face_vectors(judge, pictures, tell))
    scores = likeness(found, references)
    person = [numbers[protocol.rows[index].identity] for index in rows]
    conditioned = result.candidate.conditioned_on(judge.name)
    result.faces[judge.name] = summarise(scores, person, judge, conditioned=conditioned, level=tools.level, seed=tools.seed)
    values = np.full(len(protocol.rows), math.nan)
    values[rows] = own_scores(scores, person)
    result.rows[f"face {judge.name}"] = values
    if tools.other_photos:
        _score_copies(result, judge, [protocol.rows[index] for index in rows], rows, found, tools)


def _score_copies(
    result: FolderScores, judge: FaceJudge, rows: Sequence[Row], places: Sequence[int], found: Sequence[np.ndarray], tools: Tools
) -> None:
    """Copy-paste of the rows with a reference, at `places` of the protocol's, whose images' faces are `found`."""
    made_from = list(dict.fromkeys((row.identity, path) for row in rows if (path := row.reference)))
    embedded = tools.ranks.deal(made_from, lambda own: [_reference(judge, name, [path]) for name, path in own])
    references = dict(zip(made_from, embedded, strict=True))
    photos = [(name, path) for name in dict.fromkeys(row.identity for row in rows) for path in tools.other_photos.get(name, ())]
    vectors: dict[str, list[np.ndarray]] = {}
    seen = tools.ranks.deal(photos, lambda own: [_largest_face(judge, path) for _, path in own])
    for (name, path), vector in zip(photos, seen, strict=True):
        if vector is None:
            logger.warning("%s finds no face in %s, which is left out", judge.name, path)
        else:
            vectors.setdefault(name, []).append(vector)
    width = len(embedded[0])
    others = [np.stack(vectors[row.identity]) if row.identity in vectors else np.zeros((0, width)) for row in rows]
    own = np.stack([references[row.identity, path] for row in rows if (path := row.reference)])
    scores = copy_paste_scores(found, own, others)
    for name, values in (("copy-paste", scores.copy_paste), ("other photos", scores.other_photographs)):
        spread = result.rows[f"{name} {judge.name}"] = np.full(len(result.images), math.nan)
        spread[list(places)] = values
    names = [name for name, _ in made_from]
    alike = photographs_alike(
        np.stack(embedded), [np.stack(vectors[name]) if name in vectors else np.zeros((0, width)) for name in names]
    )
    result.photos_alike[judge.name] = cluster_bootstrap(alike, names, level=tools.level, seed=tools.seed)


def _largest_face(judge: FaceJudge, path: Path) -> np.ndarray | None:
    try:
        return reference_embedding(judge, [load_photo(path)])
    except NoFaceError:
        return None


def _reference(judge: FaceJudge, name: str, photos: Sequence[Path]) -> np.ndarray:
    try:
        return reference_embedding(judge, [load_photo(path) for path in photos])
    except NoFaceError as error:
        bad = ", ".join(str(photos[index]) for index in error.indices)
        raise ProtocolError(f"{judge.name} finds no face in the reference of {name}: {bad}. Use a clearer photo.") from error


def _score_clip(result: FolderScores, clip: ClipScorer, rows: Sequence[Row], tools: Tools) -> None:
    label = f"{result.candidate.name}: CLIP"
    pictures = stack(_each(tools, label, result.images, clip.images))
    prompts = [index for index, row in enumerate(rows) if row.prompt]
    if prompts:
        texts = list(dict.fromkeys(rows[index].prompt for index in prompts))
        place = {text: number for number, text in enumerate(texts)}
        embedded = clip.texts(texts)[[place[rows[index].prompt] for index in prompts]]
        result.rows["CLIP-T"] = _spread(paired_cosine(pictures[prompts], embedded), prompts, len(rows))
    people = [index for index, row in enumerate(rows) if row.reference is not None]
    if people:
        photos = list(dict.fromkeys(path for index in people if (path := rows[index].reference) is not None))
        order = {path: number for number, path in enumerate(photos)}
        seen = stack(tools.ranks.deal(photos, lambda own: list(clip.images(_photos(own)))))
        embedded = seen[[order[path] for i in people if (path := rows[i].reference) is not None]]
        result.rows["CLIP-I"] = _spread(paired_cosine(pictures[people], embedded), people, len(rows))


def _distributions(
    candidates: Sequence[Candidate], images: Sequence[Sequence[Path]], tools: Tools
) -> list[DistributionScores | None]:
    comparison = tools.comparison
    if comparison is None:
        return [None] * len(candidates)
    real = list_pictures(comparison.real)
    most = min(len(real), *(len(paths) for paths in images))
    number = comparison.images or most
    if number > most or number < 1:
        raise ProtocolError(
            f"FID on {number} images of each side cannot be had: {comparison.real} has {len(real)}, and the folders "
            f"{len(images[0])}."
        )
    logger.info("FID and KID on N = %d images of each side, features %s", number, comparison.features)

    def features(name: str, paths: Sequence[Path]) -> Tensor:
        # The same draw for every candidate: their rows are the same.
        chosen = np.sort(np.random.default_rng(tools.seed).choice(len(paths), number, replace=False))
        extractor = comparison.extractor

        def look(pictures: Iterator[np.ndarray], tell: Callable[[int], None]) -> Tensor:
            if isinstance(extractor, ClipScorer):
                return extractor.images(pictures, tell)
            return extract_features(extractor, pictures, tell)

        return stack(_each(tools, f"{name}: {comparison.features}", [paths[index] for index in chosen], look))

    target = features("real", real)
    return [
        compare_distributions(features(candidate.name, paths), target, subset_size=comparison.kid_subset, seed=tools.seed)
        for candidate, paths in zip(candidates, images, strict=True)
    ]


def _clusters(rows: Sequence[Row]) -> list[str]:
    """Who is not independent of whom: rows of one identity; without identities, rows of one prompt."""
    return [row.identity or f"prompt: {row.prompt}" for row in rows]


def _each(
    tools: Tools,
    label: str,
    paths: Sequence[Path],
    look: Callable[[Iterator[np.ndarray], Callable[[int], None]], Sequence[Any] | Tensor],
) -> list[Any]:
    """What `look` sees in each picture, in their order; the ranks look at their shares side by side."""

    def tell(done: int) -> None:  # the others are about as far
        tools.progress(label, min(done * tools.ranks.world_size, len(paths)), len(paths))

    return tools.ranks.deal(paths, lambda own: list(look(_photos(own), tell)))


def _photos(paths: Sequence[Path]) -> Iterator[np.ndarray]:
    return (load_photo(path) for path in paths)


def _spread(values: Tensor, rows: Sequence[int], total: int) -> np.ndarray:
    spread = np.full(total, math.nan)
    spread[list(rows)] = values.numpy()
    return spread
