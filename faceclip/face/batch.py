"""A batch of images in, aligned faces out: the whole job of the node Detect Faces."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from .align import CROP_SIZE, AlignedFace, align_face
from .detect import MIN_CONFIDENCE, Order, detect_faces
from .photo import to_rgb8
from .preview import draw_faces
from .protocol import Face, FaceDetector, FaceError, NoFaceError
from .quality import FaceQuality, assess

logger = logging.getLogger(__name__)

OnNoFace = Literal["error", "skip", "text only"]


@dataclass(frozen=True, eq=False)
class FaceBatch:
    """The faces taken from B images. N rows: image by image, within an image in the order asked for."""

    aligned: torch.Tensor
    """[N, 448, 448, 3] float32 in [0, 1]; a black row stands for an image without a face (`text only`)."""
    preview: torch.Tensor
    """[B, H, W, 3] float32: the images with every face boxed and numbered."""
    mask: torch.Tensor
    """[B, H, W] float32: 1 inside the boxes of the faces taken, 0 elsewhere."""
    count: int
    """How many faces were taken; N less the black rows."""
    sources: tuple[int, ...]
    """Per row of `aligned`, the index of the image it came from."""
    without_face: tuple[int, ...]
    """Indices of the images that have no such face."""
    quality: tuple[FaceQuality | None, ...]
    """Per row of `aligned`; None for a black row, and for a crop that came aligned."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence per doubt about a face taken, naming its image."""
        rows = zip(self.sources, self.quality, strict=True)
        return tuple(f"image {source}: {text}" for source, found in rows if found for text in found.warnings)


@dataclass(frozen=True)
class FaceChoice:
    """Which faces of each image to take."""

    order: Order = "largest"
    index: int = 0
    """The first face to take, counted from 0 in `order`."""
    count: int = 1
    """How many faces to take from there; an image that shows fewer gives what it has."""
    min_confidence: float = MIN_CONFIDENCE

    def __post_init__(self) -> None:
        if self.index < 0 or self.count < 1:
            raise FaceError(
                f"Face index {self.index} and count {self.count} choose no face: the index starts at 0, the count at 1."
            )


def faces_from_images(
    images: torch.Tensor,
    detector: FaceDetector | None,
    choice: FaceChoice | None = None,
    on_no_face: OnNoFace = "error",
    progress: Callable[[int], None] | None = None,
) -> FaceBatch:
    """Find, choose and align the faces of a batch of images.

    Args:
        images: ComfyUI's IMAGE, float [B, H, W, C] in [0, 1]; 1 or 4 channels are read as grey and RGBA.
        detector: None takes the images as aligned crops, which must then be 448 x 448.
        choice: which faces; by default the largest of each image.
        on_no_face: what an image that has no such face does. `error` stops with the images' indices; `skip` leaves the
            image out of `aligned`, which has no rows if all are left out (of a list of photos, each is a batch of its own);
            `text only` gives a black crop, which the encoder reads as "no face".
        progress: called with the number of images done after each one; may raise to stop.

    Raises:
        NoFaceError: an image has no such face under `error`.
        FaceError: an empty batch, a wrong shape, an unknown choice, a crop of another size where no detector is given.
    """
    choice = choice or FaceChoice()
    if on_no_face not in get_args(OnNoFace):
        raise FaceError(f"on_no_face is '{on_no_face}'. Choose one of: {', '.join(get_args(OnNoFace))}.")
    if images.ndim != 4:
        raise FaceError(f"Expected a batch of images [batch, height, width, channels], got {list(images.shape)}.")
    if images.shape[0] == 0:
        raise FaceError("The batch of images is empty. Connect at least one image.")
    if detector is None:
        return _already_aligned(images)

    views = []
    for image in images:
        views.append(_look_at(image, detector, choice))
        if progress is not None:
            progress(len(views))
    missing = tuple(index for index, view in enumerate(views) if not view.taken)
    if missing and on_no_face == "error":
        raise NoFaceError(_no_face_message(views, missing, choice), missing)
    if missing:
        logger.warning("No such face in image(s) %s: %s", _listed(missing), on_no_face)
    batch = _gather(views, black_where_missing=on_no_face == "text only")
    for text in batch.warnings:
        logger.warning("%s", text)
    return batch


@dataclass(frozen=True, eq=False)
class _View:
    """One image after detection."""

    size: tuple[int, int]  # width, height
    found: int
    taken: list[tuple[AlignedFace, FaceQuality]]
    preview: torch.Tensor
    mask: torch.Tensor


def _look_at(image: torch.Tensor, detector: FaceDetector, choice: FaceChoice) -> _View:
    pixels = to_rgb8(image)
    height, width = pixels.shape[:2]
    faces = detect_faces(detector, pixels, choice.order, choice.min_confidence, at_least=choice.index + choice.count)
    chosen = range(choice.index, min(choice.index + choice.count, len(faces)))
    crops = {index: align_face(pixels, faces[index]) for index in chosen}
    quality = {index: assess(crop, faces[index]) for index, crop in crops.items()}
    notes = [[text.split(":")[0] for text in quality[index].warnings] if index in quality else [] for index in range(len(faces))]
    preview = draw_faces(pixels, faces, notes, chosen)
    return _View(
        size=(width, height),
        found=len(faces),
        taken=[(crops[index], quality[index]) for index in chosen],
        preview=torch.from_numpy(preview).to(torch.float32).div_(255),
        mask=_boxes_mask([faces[index] for index in chosen], height, width),
    )


def _boxes_mask(faces: list[Face], height: int, width: int) -> torch.Tensor:
    mask = torch.zeros(height, width)
    for face in faces:
        x0, y0, x1, y1 = (max(0, round(value)) for value in face.box)
        mask[y0 : y1 + 1, x0 : x1 + 1] = 1
    return mask


def _gather(views: list[_View], black_where_missing: bool) -> FaceBatch:
    rows: list[torch.Tensor] = []
    sources: list[int] = []
    quality: list[FaceQuality | None] = []
    for index, view in enumerate(views):
        for crop, measured in view.taken:
            rows.append(torch.from_numpy(crop.image))
            sources.append(index)
            quality.append(measured)
        if not view.taken and black_where_missing:
            rows.append(torch.zeros(CROP_SIZE, CROP_SIZE, 3))
            sources.append(index)
            quality.append(None)
    return FaceBatch(
        aligned=torch.stack(rows) if rows else torch.zeros(0, CROP_SIZE, CROP_SIZE, 3),
        preview=torch.stack([view.preview for view in views]),
        mask=torch.stack([view.mask for view in views]),
        count=sum(len(view.taken) for view in views),
        sources=tuple(sources),
        without_face=tuple(index for index, view in enumerate(views) if not view.taken),
        quality=tuple(quality),
    )


def _already_aligned(images: torch.Tensor) -> FaceBatch:
    number, height, width = images.shape[:3]
    if (height, width) != (CROP_SIZE, CROP_SIZE):
        raise FaceError(
            f"Without a face detector the images must be aligned crops of {CROP_SIZE} x {CROP_SIZE} pixels, these are "
            f"{width} x {height}. Connect a Load Face Detector node, or crops made by Detect Faces."
        )
    crops = torch.stack([torch.from_numpy(to_rgb8(image)).to(torch.float32).div_(255) for image in images])
    return FaceBatch(
        aligned=crops,
        preview=crops,
        mask=torch.ones(number, height, width),
        count=number,
        sources=tuple(range(number)),
        without_face=(),
        quality=(None,) * number,
    )


def _no_face_message(views: list[_View], missing: tuple[int, ...], choice: FaceChoice) -> str:
    told = [_told(index, views[index], choice) for index in missing]
    shown = "; ".join(told[:8]) + (f"; and {len(told) - 8} more" if len(told) > 8 else "")
    if any(views[index].found for index in missing):
        advice = "Face numbers start at 0 and are shown in the preview: lower the index."
    else:
        advice = (
            "Use a larger, sharper photo that shows the face from the front, or lower min confidence"
            f" (now {choice.min_confidence:g})."
        )
    others = ""
    if len(views) > len(missing):
        others = f" To go on with the other {len(views) - len(missing)}, set on_no_face to 'skip';"
    return f"{shown}. {advice}{others} 'text only' makes conditioning without a face."


def _told(index: int, view: _View, choice: FaceChoice) -> str:
    width, height = view.size
    if view.found == 0:
        return f"No face was found in image {index} ({width} x {height})"
    faces = "1 face" if view.found == 1 else f"{view.found} faces"
    return f"Image {index} has {faces}, so there is no face number {choice.index}"


def _listed(indices: tuple[int, ...]) -> str:
    return ", ".join(map(str, indices))
