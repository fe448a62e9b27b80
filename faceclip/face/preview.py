"""What the artist looks at: photos with numbered face boxes, and ranked pictures with their scores."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .photo import resize_to
from .protocol import Face

CHOSEN = (64, 220, 120)
OTHER = (170, 170, 170)
WARNED = (255, 190, 60)
PREVIEW_SIDE = 2048
"""Longer side of a preview at most, in pixels: nobody looks at more, and 50 megapixels take seconds to write."""


def draw_faces(
    image: np.ndarray,
    faces: Sequence[Face],
    notes: Sequence[Sequence[str]],
    chosen: Collection[int],
) -> np.ndarray:
    """Return `image` (uint8 [H, W, 3]) with a numbered box per face; the number is the face's index in `faces`.

    A picture larger than PREVIEW_SIDE is shown smaller. Beside the number of a chosen face stand its size in
    pixels, the detector's confidence (0 to 1), and its notes.

    Args:
        notes: per face the short texts under its number, such as `small`.
        chosen: indices of the faces that go on; the others are drawn thin and grey.
    """
    image, scale = resize_to(image, min(PREVIEW_SIDE, max(image.shape[:2])))
    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture)
    unit, font = _scale(image)
    for index, face in enumerate(faces):
        colour = (WARNED if notes[index] else CHOSEN) if index in chosen else OTHER
        x0, y0, x1, y1 = ((value + 0.5) * scale - 0.5 for value in face.box)
        pen.rectangle((x0, y0, max(x0, x1), max(y0, y1)), outline=colour, width=2 * unit if index in chosen else unit)
        measured = [f"{face.size:.0f} px", f"{face.confidence:.2f}"] if index in chosen else []
        _label(pen, (x0, y0), " · ".join([*measured, *notes[index]]), font, colour, str(index))
    return np.array(picture)


def draw_label(image: np.ndarray, text: str, good: bool | None) -> np.ndarray:
    """Return `image` (uint8 [H, W, 3]) with `text` in its upper left corner:
    green for good, amber for not, grey for neither."""
    picture = Image.fromarray(image)
    colour = OTHER if good is None else CHOSEN if good else WARNED
    _label(ImageDraw.Draw(picture), (0, 0), text, _scale(image)[1], colour)
    return np.array(picture)


def _scale(image: np.ndarray) -> tuple[int, ImageFont.ImageFont | ImageFont.FreeTypeFont]:
    """The width of thin lines, and a font to be read when the picture is shown small."""
    unit = max(1, round(max(image.shape[:2]) / 400))
    return unit, ImageFont.load_default(size=max(10, 9 * unit))


def _label(
    pen: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    text: str,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    colour: tuple[int, int, int],
    number: str = "",
) -> None:
    """`text` on a ground of `colour`, after a `number` three times as high,
    which is read when the picture is shown small."""
    width, height = pen.im.size
    large = ImageFont.load_default(size=3 * getattr(font, "size", 10))
    parts = [(part, f, pen.textbbox((0, 0), part, font=f)) for part, f in ((number, large), (text, font)) if part]
    wide = sum(box[2] - box[0] + 4 for _, _, box in parts)
    high = max((box[3] - box[1] for _, _, box in parts), default=0) + 6
    # Over the box where there is room, and never outside the picture.
    x = min(max(0, corner[0]), max(0, width - wide))
    y = min(max(0, corner[1] - high), max(0, height - high))
    pen.rectangle((x, y, x + wide, y + high), fill=colour)
    for part, face, (left, _, right, bottom) in parts:
        pen.text((x + 2 - left, y + high - 3 - bottom), part, font=face, fill=(0, 0, 0))
        x += right - left + 4
