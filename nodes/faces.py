"""From a photo to aligned faces: Load Face Detector, Detect Faces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import comfy.model_management
import comfy.utils
import numpy as np
from comfy_api.latest import io
from torch import Tensor

from ..faceclip.face import (
    Backend,
    Face,
    FaceBatch,
    FaceChoice,
    FaceDetector,
    OnNoFace,
    Order,
    Provider,
    faces_from_images,
    load_detector,
)
from .compat import newer, require_choice
from .folders import insightface_folders
from .said import say
from .types import FaceDetectorType

PACKS = ("buffalo_l", "antelopev2")


class FaceCLIPFaceDetectorLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCLIPFaceDetectorLoader",
            display_name="Load Face Detector",
            category="FaceCLIP/loaders",
            description="Load what finds faces in photos: InsightFace (more exact, non-commercial models) or dlib (offline).",
            inputs=[
                io.Combo.Input(
                    "backend",
                    options=list(get_args(Backend)),
                    default="auto",
                    tooltip="auto takes InsightFace if it and its pack are installed, else dlib.",
                ),
                io.Combo.Input(
                    "pack",
                    options=list(PACKS),
                    default="buffalo_l",
                    tooltip="InsightFace's model pack, in models/insightface or ~/.insightface, for non-commercial use. "
                    "dlib needs none.",
                ),
                io.Combo.Input(
                    "provider",
                    options=list(get_args(Provider)),
                    default="auto",
                    tooltip="Where InsightFace runs. auto: CUDA, then CoreML, then the CPU. dlib runs on the CPU.",
                ),
            ],
            outputs=[FaceDetectorType.Output(display_name="detector", tooltip="For Detect Faces.")],
            **newer(io.Schema, search_aliases=["insightface", "dlib", "face analysis"]),
        )

    @classmethod
    def execute(cls, backend: Backend, pack: str, provider: Provider) -> io.NodeOutput:
        require_choice("pack", pack, PACKS)
        require_choice("provider", provider, get_args(Provider))
        return io.NodeOutput(load_detector(backend, pack, provider, insightface_folders()))


class FaceCLIPDetectFaces(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCLIPDetectFaces",
            display_name="Detect Faces",
            category="FaceCLIP",
            description="Find faces in photos and align them the way FaceCLIP was trained: most of a good likeness is this crop.",
            inputs=[
                io.Image.Input("image", tooltip="One photo or a batch. Look at the preview: faces have numbers."),
                FaceDetectorType.Input(
                    "detector",
                    optional=True,
                    tooltip="From Load Face Detector. Leave it open only for crops of 448 x 448 that are aligned already.",
                ),
                io.Combo.Input(
                    "order",
                    options=list(get_args(Order)),
                    default="largest",
                    tooltip="How the faces of a photo are numbered, from 0. largest: by size. left to right, top to bottom: "
                    "by place. confidence: the surest first. centre: the nearest to the middle first.",
                ),
                io.Int.Input("index", default=0, min=0, max=255, tooltip="The first face to take, counted from 0 in that order."),
                io.Int.Input("count", default=1, min=1, max=256, tooltip="How many faces to take from each photo."),
                io.Float.Input(
                    "min_confidence",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Leave out what the detector is less sure of. Lower it for a face it misses.",
                ),
                io.Combo.Input(
                    "on_no_face",
                    options=list(get_args(OnNoFace)),
                    default="error",
                    tooltip="What to do with a photo without a face. error: stop. skip: leave it out. "
                    "text only: go on with the prompt alone for it.",
                ),
            ],
            outputs=[
                io.Image.Output("faces", display_name="faces", tooltip="Aligned crops of 448 x 448, for Encode Identity."),
                io.Image.Output("preview", display_name="preview", tooltip="The photos with boxes and numbers on their faces."),
                io.Mask.Output("mask", display_name="mask", tooltip="The boxes of the faces taken, one mask a photo."),
                io.Int.Output("face_count", display_name="count", tooltip="How many faces were taken."),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="What was found: photos without a face, and faces that are small, blurred or turned away.",
                ),
            ],
            **newer(io.Schema, search_aliases=["face crop", "face align", "insightface", "bounding box"]),
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        order: Order,
        index: int,
        count: int,
        min_confidence: float,
        on_no_face: OnNoFace,
        detector: FaceDetector | None = None,
    ) -> io.NodeOutput:
        watched = detector and _Watched(detector, len(image))
        found = faces_from_images(image, watched, FaceChoice(order, index, count, min_confidence), on_no_face)
        report = _report(found)
        say(report)
        return io.NodeOutput(found.aligned, found.preview, found.mask, found.count, report)


class _Watched:
    """A detector that moves the progress bar and heeds the Cancel button at every image."""

    def __init__(self, detector: FaceDetector, images: int):
        self.name = detector.name
        self._detector = detector
        self._progress = comfy.utils.ProgressBar(images)

    def detect(self, image: np.ndarray) -> list[Face]:
        return next(self.passes(image))

    def passes(self, image: np.ndarray) -> Iterator[list[Face]]:
        for faces in self._detector.passes(image):
            comfy.model_management.throw_exception_if_processing_interrupted()
            yield faces
        self._progress.update(1)


def _report(found: FaceBatch) -> str:
    photos = len(found.preview)
    lines = [f"{found.count} face{'s' * (found.count != 1)} taken from {photos} photo{'s' * (photos != 1)}."]
    if found.without_face:
        lines.append(f"No such face in image {', '.join(map(str, found.without_face))}.")
    return "\n".join([*lines, *found.warnings])
