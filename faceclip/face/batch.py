"""A batch of images in, aligned faces out: the whole job of the node Detect Faces."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from .align import CROP_SIZE, TEMPLATES, align_face
from .detect import MIN_CONFIDENCE, SMALLEST_IMAGE, Order, detect_in_batch
from .photo import to_rgb8
from .preview import draw_faces
from .protocol import Face, FaceDetector, FaceError, NoFaceError
from .quality import FaceQuality, assess

logger = logging.getLogger(__name__)

OnNoFace = Literal["error", "skip", "text only"]

# Pictures that are looked at together, and held as bytes meanwhile.
TOGETHER = 16
# A crop of 448 px whose points are nearer to the template's than this, on average and in its pixels, is aligned already: crops of
# any of the detectors drift 4 to 6 px, at most 20.
ALIGNED_WITHIN = 40.0
_ORDER_NAMES: dict[Order, str] = {
    "largest": "the largest",
    "left to right": "from the left",
    "top to bottom": "from the top",
    "confidence": "the surest first",
    "centre": "from the middle",
}


@dataclass(frozen=True, eq=False)
class FaceBatch:
    """The faces taken from B images. N rows: image by image, within an image in the order asked for."""

    aligned: torch.Tensor
    """[N, 448, 448, 3] float32 in [0, 1]; a black row stands for an image without a face (`text only`)."""
    preview: torch.Tensor
    """[B, h, w, 3] float32: the images with every face boxed and numbered, at most 2,048 px large."""
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
    said: tuple[str, ...] = ()
    """What else to know, one sentence each: which of several faces was taken, what was turned upright."""

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
    keep_aligned: bool = False,
) -> FaceBatch:
    """Find, choose and align the faces of a batch of images.

    Args:
        images: ComfyUI's IMAGE, float [B, H, W, C] in [0, 1]; 1 or 4 channels are read as grey and RGBA.
        detector: None takes the images as aligned crops, which must then be 448 x 448.
        choice: which faces; by default the largest of each image.
        on_no_face: what an image that has no such face does. `error` stops with the images' indices; `skip` leaves
            the image out of `aligned`, which has no rows if all are left out (of a list of photos, each is a batch of
            its own); `text only` gives a black crop, which the encoder reads as "no face".
        progress: called with the number of images done, after each look of the detector; may raise to stop.
        keep_aligned: images of 448 x 448 that show a face where the template has it, or no face at all, are crops
            that came aligned: they go on as they are, and `choice` does not matter.

    Raises:
        NoFaceError: an image has no such face under `error`.
        FaceError: an empty batch, a wrong shape, an unknown choice, a crop of
            another size where no detector is given.
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

    views: list[_View] = []
    for start in range(0, len(images), TOGETHER):
        pictures = [to_rgb8(image) for image in images[start : start + TOGETHER]]

        def after_look(done: int, before: int = start) -> None:
            if progress is not None:
                progress(before + done)

        found = detect_in_batch(detector, pictures, choice.order, choice.min_confidence, choice.index + choice.count, after_look)
        crops = keep_aligned and images.shape[1:3] == (CROP_SIZE, CROP_SIZE)
        for picture, faces in zip(pictures, found, strict=True):
            as_it_is = crops and (not faces or is_aligned(picture, faces))
            views.append(_kept(picture) if as_it_is else _view(picture, faces, choice))
    missing = tuple(index for index, view in enumerate(views) if not view.taken)
    if missing and on_no_face == "error":
        raise NoFaceError(_no_face_message(views, missing, choice, detector), missing)
    if missing:
        logger.warning("No such face in image(s) %s: %s", _listed(missing), on_no_face)
    batch = _gather(views, choice, black_where_missing=on_no_face == "text only")
    for text in batch.warnings:
        logger.warning("%s", text)
    return batch


def is_aligned(picture: np.ndarray, faces: list[Face]) -> bool:
    """Say whether a picture uint8 [448, 448, 3] is a crop aligned to the
    template already: one of its faces lies there."""
    template = TEMPLATES["arcface"]
    for face in faces:
        matrix = align_face(picture, face, size=CROP_SIZE).matrix
        moved = template @ matrix[:, :2].T + matrix[:, 2]
        if np.linalg.norm(moved - template, axis=1).mean() < ALIGNED_WITHIN:
            return True
    return False


@dataclass(frozen=True, eq=False)
class _View:
    """One image after detection."""

    size: tuple[int, int]  # width, height
    found: int
    taken: list[tuple[torch.Tensor, FaceQuality | None]]
    preview: torch.Tensor
    mask: torch.Tensor


def _view(pixels: np.ndarray, faces: list[Face], choice: FaceChoice) -> _View:
    height, width = pixels.shape[:2]
    chosen = range(choice.index, min(choice.index + choice.count, len(faces)))
    crops = {index: align_face(pixels, faces[index]) for index in chosen}
    quality = {index: assess(crop, faces[index]) for index, crop in crops.items()}
    notes = [[text.split(":")[0] for text in quality[index].warnings] if index in quality else [] for index in range(len(faces))]
    preview = draw_faces(pixels, faces, notes, chosen)
    return _View(
        size=(width, height),
        found=len(faces),
        taken=[(torch.from_numpy(crops[index].image), quality[index]) for index in chosen],
        preview=torch.from_numpy(preview).to(torch.float32).div_(255),
        mask=_boxes_mask([faces[index] for index in chosen], height, width),
    )


def _kept(pixels: np.ndarray) -> _View:
    crop = torch.from_numpy(pixels).to(torch.float32).div_(255)
    return _View((CROP_SIZE, CROP_SIZE), 1, [(crop, None)], crop, torch.ones(CROP_SIZE, CROP_SIZE))


def _boxes_mask(faces: list[Face], height: int, width: int) -> torch.Tensor:
    mask = torch.zeros(height, width)
    for face in faces:
        x0, y0, x1, y1 = (max(0, round(value)) for value in face.box)
        mask[y0 : y1 + 1, x0 : x1 + 1] = 1
    return mask


def _remarks(views: list[_View], choice: FaceChoice) -> tuple[str, ...]:
    """What was chosen where there was a choice, and which faces were turned upright."""
    sentences = []
    for place, view in enumerate(views):
        where = f"image {place}: " if len(views) > 1 else ""
        numbers = [str(choice.index + row) for row in range(len(view.taken))]
        if view.taken and view.found > len(view.taken):
            which = _ORDER_NAMES[choice.order] if choice.index == 0 else f"counted {_ORDER_NAMES[choice.order]}"
            number = f"number{'s' * (len(numbers) > 1)} {', '.join(numbers)}"
            sentences.append(f"{where}{len(numbers)} of {view.found} faces taken: {number}, {which}.")
        for number, (_, quality) in zip(numbers, view.taken, strict=True):
            if quality and quality.lies:
                sentences.append(f"{where}face {number} {quality.lies}: turned upright.")
    return tuple(sentences)


def _gather(views: list[_View], choice: FaceChoice, black_where_missing: bool) -> FaceBatch:
    rows: list[torch.Tensor] = []
    sources: list[int] = []
    quality: list[FaceQuality | None] = []
    for index, view in enumerate(views):
        for crop, measured in view.taken:
            rows.append(crop)
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
        said=_remarks(views, choice),
    )


_LARGE = 4096  # pixels of the longer side, beyond which a face that is large enough can be too small in the picture to be found


def _already_aligned(images: torch.Tensor) -> FaceBatch:
    number, height, width = images.shape[:3]
    if (height, width) != (CROP_SIZE, CROP_SIZE):
        raise FaceError(
            f"Without a face detector the images must be aligned crops of {CROP_SIZE} x {CROP_SIZE} pixels, these are "
            f"{width} x {height}. Give a detector, or crops made by Detect Faces."
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


def _no_face_message(views: list[_View], missing: tuple[int, ...], choice: FaceChoice, detector: FaceDetector) -> str:
    reasons = [_reason(index, views[index], choice) for index in missing]
    shown = "; ".join(reasons[:8]) + (f"; and {len(reasons) - 8} more" if len(reasons) > 8 else "")
    if any(views[index].found for index in missing):
        advice = "Face numbers start at 0 and are shown in the preview: lower the index."
    elif all(min(views[index].size) < SMALLEST_IMAGE for index in missing):
        advice = f"So small a picture shows no face: use a photo of at least {SMALLEST_IMAGE} pixels a side, better of 500."
    else:
        advice = (
            f"The detector {detector.name} {detector.tried}. Use a larger, sharper photo that shows the face from the front, "
            f"or lower min confidence (now {choice.min_confidence:g})."
        )
        if max(max(views[index].size) for index in missing) > _LARGE:
            advice += " Crop a large photo around the person first."
    others = ""
    if len(views) > len(missing):
        others = f" To go on with the other {len(views) - len(missing)}, set on_no_face to 'skip';"
    return f"{shown}. {advice}{others} 'text only' makes conditioning without a face."


def _reason(index: int, view: _View, choice: FaceChoice) -> str:
    width, height = view.size
    if view.found == 0:
        return f"No face was found in image {index} ({width} x {height})"
    faces = "1 face" if view.found == 1 else f"{view.found} faces"
    return f"Image {index} has {faces}, so there is no face number {choice.index}"


def _listed(indices: tuple[int, ...]) -> str:
    return ", ".join(map(str, indices))
