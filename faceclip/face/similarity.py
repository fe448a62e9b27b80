"""How much two pictures show the same person: a judge turns a face into a unit vector, the cosine compares."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
import torch

from .align import align_face
from .detect import detect_faces
from .dlib_backend import INSTALL_COMMAND, FivePoints, dlib_is_ready, import_dlib, model_file
from .insightface_backend import InsightFaceDetector, Provider, load_pack_model
from .photo import to_rgb8
from .preview import draw_label
from .protocol import DetectorUnavailableError, Face, FaceDetector, FaceError, NoFaceError
from .yunet_backend import YuNetDetector

Judge = Literal["auto", "dlib", "insightface"]

# Where dlib's detector sees the face on a crop aligned to ArcFace's template, in px of 448: means over published crops.
_DLIB_BOX = (45.0, 109.0, 401.0, 463.0)


class FaceJudge(Protocol):
    """A face recognition network, with the detector whose faces it reads best."""

    name: str
    detector: FaceDetector
    same_person_above: float
    """The cosine above which two faces usually are one person's. Cosines of different judges do not compare."""

    def embed(self, image: np.ndarray, face: Face) -> np.ndarray:
        """Return the unit vector float32 [D] of `face` in `image` (uint8 [H, W, 3] RGB)."""
        ...


class DlibJudge:
    """dlib's ResNet, 128 numbers per face; free for commercial use. The pack's own detector finds the faces for it.

    Raises:
        DetectorUnavailableError: dlib or its models are not installed; names the command.
    """

    name = "dlib"
    # dlib calls two faces one person up to a distance of 0.6 between vectors whose length is about 1.5.
    same_person_above = 0.92

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._dlib = import_dlib()
        self._network = self._dlib.face_recognition_model_v1(model_file("dlib_face_recognition_resnet_model_v1.dat"))
        self._points = FivePoints()
        self.detector: FaceDetector = YuNetDetector(device)

    def embed(self, image: np.ndarray, face: Face) -> np.ndarray:
        """Return the unit vector float32 [128] of `face` in `image` (uint8 [H, W, 3] RGB)."""
        points = face.landmarks if face.landmark_kind == "dlib" else self._points_of(image, face)
        rectangle = self._dlib.rectangle(*(round(value) for value in face.box))
        parts = [self._dlib.point(round(float(x)), round(float(y))) for x, y in points]
        shape = self._dlib.full_object_detection(rectangle, parts)
        return _unit(np.array(self._network.compute_face_descriptor(np.ascontiguousarray(image), shape)))

    def _points_of(self, image: np.ndarray, face: Face) -> np.ndarray:
        """dlib's five points [5, 2] of a face that another detector found,
        looked for where it is upright and of usual size."""
        crop = align_face(image, face)
        points = self._points.locate((crop.image * 255).round().astype(np.uint8), _DLIB_BOX)
        return (points - crop.matrix[:, 2]) @ np.linalg.inv(crop.matrix[:, :2]).T


class InsightFaceJudge:
    """The ArcFace network of an InsightFace pack, 512 numbers per face; non-commercial licence.

    Raises:
        DetectorUnavailableError: the package, the pack or the provider is missing; says how to get it.
    """

    # A common choice for the packs' networks; unlike dlib's, their cosines of two people are near 0.
    same_person_above = 0.35

    def __init__(self, pack: str = "buffalo_l", provider: Provider = "auto", roots: Sequence[Path] = ()) -> None:
        self._network = load_pack_model(pack, "recognition", provider, roots)
        self.detector: FaceDetector = InsightFaceDetector(pack, provider, roots)
        self.name = f"insightface {pack}"

    def embed(self, image: np.ndarray, face: Face) -> np.ndarray:
        """Return the unit vector float32 [512] of `face` in `image` (uint8 [H, W, 3] RGB)."""
        crop = align_face(image, face, size=112).image
        return _unit(self._network.get_feat((crop[:, :, ::-1] * 255).round().astype(np.uint8)).ravel())


def load_judge(
    judge: Judge = "auto",
    pack: str = "buffalo_l",
    provider: Provider = "auto",
    roots: Sequence[Path] = (),
    device: torch.device | str = "cpu",
) -> FaceJudge:
    """Load a judge by name; the other arguments are those of `load_detector`.

    `auto` takes the ArcFace network of the user's InsightFace pack where it starts, else dlib.

    Raises:
        DetectorUnavailableError: its package or its models are missing; says how to get them.
        FaceError: there is no such judge.
    """
    if judge not in get_args(Judge):
        raise FaceError(f"There is no judge called '{judge}'. Choose one of: {', '.join(get_args(Judge))}.")
    if judge == "dlib":
        return DlibJudge(device)
    try:
        return InsightFaceJudge(pack, provider, roots)
    except DetectorUnavailableError as error:
        if judge == "insightface":
            raise
        if not dlib_is_ready():
            raise DetectorUnavailableError(
                f"No judge of likeness is ready. Run `{INSTALL_COMMAND}` in ComfyUI's Python, then restart. "
                f"Or set up InsightFace: {error}"
            ) from error
        return DlibJudge(device)


@dataclass(frozen=True)
class SimilarityScores:
    """How much each image shows the person of the reference."""

    scores: tuple[float, ...]
    """Cosine, -1 to 1, of the image's most similar face; NaN for an image without a face."""
    judge: str
    same_person_above: float

    @property
    def without_face(self) -> tuple[int, ...]:
        """Indices of the images in which no face was found."""
        return tuple(index for index, score in enumerate(self.scores) if math.isnan(score))

    @property
    def ranking(self) -> tuple[int, ...]:
        """Image indices, most similar first; images without a face come last, in their own order."""
        return tuple(sorted(range(len(self.scores)), key=lambda index: _or_lowest(self.scores[index]), reverse=True))

    @property
    def mean(self) -> float:
        """The mean over images with a face; NaN if there is none."""
        known = [score for score in self.scores if not math.isnan(score)]
        return sum(known) / len(known) if known else math.nan


def score_images(
    judge: FaceJudge,
    images: Iterable[np.ndarray],
    reference: np.ndarray,
    progress: Callable[[int], None] | None = None,
) -> SimilarityScores:
    """Compare every image with the reference person: of several faces in an image the most similar counts.

    Args:
        images: uint8 [H, W, 3] RGB each; sizes may differ.
        reference: unit vector [D], as `reference_embedding` makes it.
        progress: called with the number of images done after each one; may raise to stop.
    """
    scores = []
    for image in images:
        faces = detect_faces(judge.detector, image)
        scores.append(max((float(judge.embed(image, face) @ reference) for face in faces), default=math.nan))
        if progress is not None:
            progress(len(scores))
    return SimilarityScores(tuple(scores), judge.name, judge.same_person_above)


def reference_embedding(judge: FaceJudge, images: Sequence[np.ndarray]) -> np.ndarray:
    """Return the unit vector of the person whose largest face is in each of `images`, averaged over them.

    Raises:
        NoFaceError: an image shows no face; carries the indices.
        FaceError: there is no image.
    """
    if not images:
        raise FaceError("There is no reference image. Connect a photo of the person to compare with.")
    found = [detect_faces(judge.detector, image, "largest") for image in images]
    missing = tuple(index for index, faces in enumerate(found) if not faces)
    if missing:
        raise NoFaceError(
            f"No face was found in reference image {', '.join(map(str, missing))}. Use a larger, sharper photo that "
            "shows the face from the front.",
            missing,
        )
    vectors = [judge.embed(image, faces[0]) for image, faces in zip(images, found, strict=True)]
    return _unit(np.mean(vectors, axis=0))


def rank_images(
    judge: FaceJudge,
    images: torch.Tensor,
    reference: torch.Tensor,
    progress: Callable[[int], None] | None = None,
) -> SimilarityScores:
    """Score ComfyUI images, float [B, H, W, C] in [0, 1], against reference photos [R, H, W, C] of one person.

    Raises:
        NoFaceError: a reference shows no face.
        FaceError: one of the two batches is empty.
    """
    if len(images) == 0:
        raise FaceError("The batch of images is empty. Connect at least one image.")
    vector = reference_embedding(judge, [to_rgb8(image) for image in reference])
    return score_images(judge, (to_rgb8(image) for image in images), vector, progress)


def label_ranking(images: torch.Tensor, found: SimilarityScores) -> torch.Tensor:
    """ComfyUI images [B, H, W, C] in [0, 1] -> the same in the order of
    `found`, with place and score on each: [B, H, W, 3].

    Green: usually the same person. Amber: usually another. Grey: no face was found.
    """
    labelled = []
    for place, index in enumerate(found.ranking, 1):
        score = found.scores[index]
        missing = math.isnan(score)
        text = f"{place} · no face" if missing else f"{place} · {score:.3f}"
        good = None if missing else score >= found.same_person_above
        labelled.append(torch.from_numpy(draw_label(to_rgb8(images[index]), text, good)).float().div_(255))
    return torch.stack(labelled)


def cosine_similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Return the cosine, -1 to 1, of two vectors [D] of one judge."""
    return float(_unit(first) @ _unit(second))


def _unit(vector: np.ndarray) -> np.ndarray:
    return (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32)


def _or_lowest(score: float) -> float:
    return -math.inf if math.isnan(score) else score
