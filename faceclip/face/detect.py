"""Choosing a detector, and finding the faces of one image in the order the artist asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from .dlib_backend import DlibDetector
from .insightface_backend import InsightFaceDetector, Provider
from .protocol import BatchDetector, DetectorUnavailableError, Face, FaceDetector, FaceError
from .yunet_backend import YuNetDetector

logger = logging.getLogger(__name__)

Backend = Literal["auto", "insightface", "dlib", "yunet"]
Order = Literal["largest", "left to right", "top to bottom", "confidence", "centre"]

MIN_CONFIDENCE = 0.5
# An image narrower than this cannot show a face that any detector finds.
SMALLEST_IMAGE = 16


def load_detector(
    backend: Backend = "auto",
    pack: str = "buffalo_l",
    provider: Provider = "auto",
    roots: Sequence[Path] = (),
    device: torch.device | str = "cpu",
) -> FaceDetector:
    """Load a face detector.

    Args:
        backend: `auto` takes InsightFace where it starts and its pack is
            there, else `yunet`, which comes with the pack.
        pack: InsightFace's model pack, `buffalo_l` or `antelopev2` (non-commercial licence); the others need none.
        provider: where InsightFace runs; `auto` takes CUDA, then CoreML, then the CPU. dlib runs on the CPU.
        roots: folders that may hold packs, such as ComfyUI's
            `models/insightface`; `~/.insightface` is always tried last.
        device: where `yunet` runs.

    Raises:
        DetectorUnavailableError: the package, the pack or the provider is missing; the message says how to get it.
        FaceError: there is no such backend.
    """
    if backend not in get_args(Backend):
        raise FaceError(f"There is no face detector called '{backend}'. Choose one of: {', '.join(get_args(Backend))}.")
    if backend == "dlib":
        return DlibDetector()
    if backend == "yunet":
        return YuNetDetector(device)
    if backend == "insightface":
        return InsightFaceDetector(pack, provider, roots)
    try:
        return InsightFaceDetector(pack, provider, roots)
    except DetectorUnavailableError as error:
        logger.info("Face detector: the pack's own (yunet), since InsightFace is not ready (%s)", error)
        return YuNetDetector(device)


def detect_faces(
    detector: FaceDetector,
    image: np.ndarray,
    order: Order = "largest",
    min_confidence: float = MIN_CONFIDENCE,
    at_least: int = 1,
) -> list[Face]:
    """Return the faces of `image` (uint8 [H, W, 3] RGB) in `order`; an empty list if there is none.

    Looks again at other sizes until `at_least` faces of `min_confidence`
    are found, and keeps the look that found most.

    Raises:
        FaceError: there is no such order.
    """
    return detect_in_batch(detector, [image], order, min_confidence, at_least)[0]


def detect_in_batch(
    detector: FaceDetector,
    images: Sequence[np.ndarray],
    order: Order = "largest",
    min_confidence: float = MIN_CONFIDENCE,
    at_least: int = 1,
    progress: Callable[[int], None] | None = None,
) -> list[list[Face]]:
    """Return the faces of each image, as `detect_faces` does; a detector that can looks at all of them at once.

    `progress` is called after each look with the number of images done; it may raise to stop.

    Raises:
        FaceError: there is no such order.
    """
    if order not in get_args(Order):
        raise FaceError(f"There is no order '{order}' for faces. Choose one of: {', '.join(get_args(Order))}.")
    best: list[list[Face]] = [[] for _ in images]
    waiting = [place for place, image in enumerate(images) if min(image.shape[:2]) >= SMALLEST_IMAGE]

    def seen(place: int, faces: list[Face]) -> bool:
        """Keep the most faces; say whether they are enough."""
        sure = [face for face in faces if face.confidence >= min_confidence]
        best[place] = sure if len(sure) > len(best[place]) else best[place]
        return len(best[place]) >= at_least

    def told(done: int) -> None:
        if progress is not None:
            progress(done)

    if isinstance(detector, BatchDetector):
        for number in range(detector.looks):
            found = detector.look([images[place] for place in waiting], number) if waiting else []
            waiting = [place for place, faces in zip(waiting, found, strict=True) if not seen(place, faces)]
            told(len(images) - len(waiting) if number < detector.looks - 1 else len(images))
    else:
        for place in waiting:
            for faces in detector.passes(images[place]):
                enough = seen(place, faces)
                told(place)
                if enough:
                    break
        told(len(images))
    return [sorted(faces, key=_order_key(order, image)) for faces, image in zip(best, images, strict=True)]


def _order_key(order: Order, image: np.ndarray) -> Callable[[Face], float]:
    middle = np.array([image.shape[1], image.shape[0]]) / 2
    keys: dict[Order, Callable[[Face], float]] = {
        "largest": lambda face: -face.area,
        "left to right": lambda face: face.centre[0],
        "top to bottom": lambda face: face.centre[1],
        "confidence": lambda face: -face.confidence,
        "centre": lambda face: float(np.linalg.norm(np.array(face.centre) - middle)),
    }
    return keys[order]
