"""From a photo to aligned faces: Load Face Detector, Detect Faces."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from typing import get_args

import comfy.model_management
import comfy.utils
import numpy as np
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..faceclip.face import (
    Backend,
    Face,
    FaceBatch,
    FaceChoice,
    FaceDetector,
    NoFaceError,
    OnNoFace,
    Order,
    Provider,
    faces_from_images,
    load_detector,
)
from ..faceclip.face.photo import to_rgb8
from ..faceclip.face.protocol import BatchDetector, Pause
from ..faceclip.face.sheet import MOST_PICTURES
from .compat import newer, require_choice
from .folders import insightface_folders
from .status import STAYS, sheet, show_status
from .types import FaceDetectorType

BREATH = 0.02  # s; what the server's thread needs to hear of Cancel

PACKS = ("buffalo_l", "antelopev2")


class FaceCLIPFaceDetectorLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCLIPFaceDetectorLoader",
            display_name="Load Face Detector",
            category="FaceCLIP/loaders",
            description="Choose what finds faces in photos. Detect Faces without a detector takes the same as auto.",
            inputs=[
                io.Combo.Input(
                    "backend",
                    options=list(get_args(Backend)),
                    default="auto",
                    tooltip="auto takes InsightFace if it and its pack are installed, else yunet, which comes with the pack.",
                ),
                io.Combo.Input(
                    "pack",
                    options=list(PACKS),
                    default="buffalo_l",
                    tooltip="InsightFace's model pack, in models/insightface or ~/.insightface, for non-commercial use. "
                    "The others need none.",
                    **newer(io.Combo.Input, advanced=True),
                ),
                io.Combo.Input(
                    "provider",
                    options=list(get_args(Provider)),
                    default="auto",
                    tooltip="Where InsightFace runs. auto: CUDA, then CoreML, then the CPU. "
                    "yunet runs on ComfyUI's GPU, dlib on the CPU.",
                    **newer(io.Combo.Input, advanced=True),
                ),
            ],
            outputs=[FaceDetectorType.Output(display_name="detector", tooltip="For Detect Faces.")],
            **newer(io.Schema, search_aliases=["insightface", "dlib", "yunet", "face analysis"]),
        )

    @classmethod
    def execute(cls, backend: Backend, pack: str, provider: Provider) -> io.NodeOutput:
        require_choice("pack", pack, PACKS)
        require_choice("provider", provider, get_args(Provider))
        return io.NodeOutput(load_detector(backend, pack, provider, insightface_folders(), detector_device()))


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
                    tooltip="From Load Face Detector. Without one, photos get the detector that auto takes there, and crops of "
                    "448 x 448 that are aligned already stay as they are.",
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
                    **newer(io.Float.Input, advanced=True),
                ),
                io.Combo.Input(
                    "on_no_face",
                    options=list(get_args(OnNoFace)),
                    default="error",
                    tooltip="What to do with a photo without a face. error: stop. skip: leave it out. "
                    "text only: go on with the prompt alone for it.",
                    **newer(io.Combo.Input, advanced=True),
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
            **STAYS,
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
        progress = comfy.utils.ProgressBar(len(image))

        def seen(done: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            progress.update_absolute(done)

        finder = watched_detector(detector or load_detector("auto", roots=insightface_folders(), device=detector_device()))
        choice = FaceChoice(order, index, count, min_confidence)
        try:
            found = faces_from_images(image, finder, choice, on_no_face, seen, keep_aligned=detector is None)
        except NoFaceError as error:
            if hint := example_among(image, error.indices):
                raise NoFaceError(f"{error} {hint}", error.indices) from error
            raise
        report = _report(found)
        show_status(report)
        return io.NodeOutput(found.aligned, found.preview, found.mask, found.count, report, ui=_seen(found, report))


class WatchedDetector:
    """A detector that stops on Cancel at every look, and within looks that take seconds."""

    def __init__(self, detector: FaceDetector):
        self.name, self.tried = detector.name, detector.tried
        self._detector = detector

    def detect(self, image: np.ndarray) -> list[Face]:
        return next(self.passes(image))

    def passes(self, image: np.ndarray, pause: Pause | None = None) -> Iterator[list[Face]]:
        for faces in self._detector.passes(image, pause or _let_cancel_through):
            comfy.model_management.throw_exception_if_processing_interrupted()
            yield faces


def watched_detector(detector: FaceDetector) -> FaceDetector:
    """The detector, watched for Cancel unless it looks at many pictures at once: such looks are short."""
    return detector if isinstance(detector, BatchDetector) else WatchedDetector(detector)


def _let_cancel_through() -> None:
    """Give the server's thread its turn while a look holds the process: it
    hears of Cancel now, not when the look is over."""
    time.sleep(BREATH)
    comfy.model_management.throw_exception_if_processing_interrupted()


def detector_device() -> torch.device:
    """Where the pack's own detector runs: ComfyUI's GPU if it speaks CUDA (NVIDIA, AMD), else the CPU.

    Other GPUs lack some of its operations; a CPU takes some 40 ms a photo.
    """
    device = comfy.model_management.get_torch_device()
    return device if device.type == "cuda" else torch.device("cpu")


# ComfyUI's own input/example.png, which is in Load Image when ComfyUI starts: sha256 of its pixels, uint8 [768, 768, 3].
EXAMPLE_PICTURE = "3a3f46cb1b1a1537a65d471da8612bc5e12f97c38de6ab3d1e75e0d70a5223c8"


def example_among(images: Tensor, indices: Sequence[int]) -> str:
    """A sentence about ComfyUI's example picture, if it is one of these images; else nothing."""
    if images.shape[1:3] != (768, 768):
        return ""
    for place in indices:
        if hashlib.sha256(to_rgb8(images[place]).tobytes()).hexdigest() == EXAMPLE_PICTURE:
            return f"Image {place} is ComfyUI's own example picture, a drawing: choose your photo in Load Image."
    return ""


def _seen(found: FaceBatch, report: str) -> ui.PreviewImage:
    """The photos with their numbered faces, the crops that go on, and the report; of many the first."""
    crops = [crop for crop in found.aligned if crop.any()]
    photos = [] if len(crops) == len(found.preview) and found.aligned.equal(found.preview) else list(found.preview)
    more = max(len(photos), len(crops)) - MOST_PICTURES
    left_out = f"\n{more} more are not shown." if more > 0 else ""
    return sheet([to_rgb8(picture) for picture in (*photos[:MOST_PICTURES], *crops[:MOST_PICTURES])], report + left_out)


def _report(found: FaceBatch) -> str:
    photos = len(found.preview)
    lines = [f"{found.count} face{'s' * (found.count != 1)} taken from {photos} photo{'s' * (photos != 1)}."]
    if found.without_face:
        lines.append(f"No such face in image {', '.join(map(str, found.without_face))}.")
    return "\n".join([*lines, *found.said, *found.warnings])
