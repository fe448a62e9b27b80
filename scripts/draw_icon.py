"""Draw the pack's icon and banner for ComfyUI's registry.

    python scripts/draw_icon.py [FOLDER]        (default: docs/images/ of this repository)

The picture says what the pack does: a face with its five landmarks in a detection frame, and a wire from it
to the next node. Everything is drawn four times as large and averaged, since Pillow's own edges are hard.
Letters are Pillow's built-in font.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ICON_SIZE = 400  # the most that the registry takes, square
BANNER_SIZE = (1260, 540)  # 21:9
OVERSAMPLING = 4

NIGHT, PLUM, CORAL, SAND, PAPER, TEAL, FOG = "#15182b", "#4f2f6b", "#ff7d5c", "#ffd2a1", "#f8f3ea", "#3ad6be", "#bdb8d2"
HAIR, SHADE = "#6d3b33", "#e5a576"

Point = tuple[float, float]


class Canvas:
    """A picture that is drawn on in its final pixels, whatever it is drawn at."""

    def __init__(self, size: tuple[int, int], top: str, bottom: str) -> None:
        self.size = size
        self.image = _gradient((size[0] * OVERSAMPLING, size[1] * OVERSAMPLING), top, bottom)
        self.pen = ImageDraw.Draw(self.image)

    def circle(self, centre: Point, radius: float, colour: str) -> None:
        self.ellipse(centre, radius, radius, colour)

    def ellipse(self, centre: Point, across: float, up: float, colour: str) -> None:
        (x, y), k = centre, OVERSAMPLING
        area = ((x - across) * k, (y - up) * k, (x + across) * k, (y + up) * k)
        self.pen.ellipse([round(edge) for edge in area], fill=colour)

    def line(self, points: Sequence[Point], width: float, colour: str) -> None:
        """With round ends and corners."""
        k = OVERSAMPLING
        self.pen.line([(x * k, y * k) for x, y in points], fill=colour, width=round(width * k), joint="curve")
        for end in (points[0], points[-1]):
            self.circle(end, width / 2, colour)

    def wire(self, start: Point, end: Point, width: float, colour: str) -> None:
        """As ComfyUI draws its links: level at both ends."""
        (x0, y0), (x1, y1) = start, end
        reach = max(abs(x1 - x0), 1) * 0.55
        bend = [start, (x0 + reach, y0), (x1 - reach, y1), end]
        for step in range(401):  # discs: a line of short pieces shows its joints
            self.circle(_bezier(bend, step / 400), width / 2, colour)

    def arc(self, centre: Point, radius: float, angles: Point, width: float, colour: str) -> None:
        """Part of a circle; angles in degrees, from the right, clockwise."""
        (x, y), k = centre, OVERSAMPLING
        area = ((x - radius) * k, (y - radius) * k, (x + radius) * k, (y + radius) * k)
        self.pen.arc(area, *angles, fill=colour, width=round(width * k))

    def box(self, corner: Point, size: Point, radius: float, fill: str, outline: str) -> None:
        (x, y), (width, height), k = corner, size, OVERSAMPLING
        area = (x * k, y * k, (x + width) * k, (y + height) * k)
        self.pen.rounded_rectangle(area, radius * k, fill=fill, outline=outline, width=round(2.5 * k))

    def text(self, at: Point, words: str, height: float, colour: str, anchor: str = "ls", weight: float = 0) -> None:
        """`at`: the left (or middle) end of the baseline. weight: pixels by which the strokes are thickened."""
        k = OVERSAMPLING
        font = ImageFont.load_default(height * k)
        place = (at[0] * k, at[1] * k)
        self.pen.text(place, words, colour, font, anchor, stroke_width=round(weight * k), stroke_fill=colour)

    def finish(self, radius: float = 0) -> Image.Image:
        """The picture in its own size; `radius` cuts round corners out of it."""
        if radius:
            mask = Image.new("L", self.image.size)
            end = (self.image.width - 1, self.image.height - 1)
            ImageDraw.Draw(mask).rounded_rectangle(((0, 0), end), radius * OVERSAMPLING, fill=255)
            self.image.putalpha(mask)
        return self.image.resize(self.size, Image.Resampling.BOX)


def draw_icon() -> Image.Image:
    """The icon, RGBA with round corners, 400 x 400."""
    canvas = Canvas((ICON_SIZE, ICON_SIZE), PLUM, NIGHT)
    _face_with_frame(canvas, (178, 176), 1.0)
    canvas.wire((290, 176), (358, 176), 12, TEAL)
    canvas.circle((352, 176), 19, TEAL)
    canvas.circle((352, 176), 9, NIGHT)
    return canvas.finish(radius=84)


def draw_banner() -> Image.Image:
    """The banner, RGB, 21:9."""
    canvas = Canvas(BANNER_SIZE, PLUM, NIGHT)
    _face_with_frame(canvas, (250, 236), 1.3)
    canvas.text((520, 235), "FaceCLIP", 132, PAPER, weight=1.5)
    canvas.text((526, 294), "one photo and a prompt, in ComfyUI", 36, FOG)
    boxes = (("face", 526, 124), ("identity", 722, 160), ("conditioning", 954, 226))
    y, height = 366, 74
    canvas.wire((387, 236), (526, y + height / 2), 9, TEAL)
    for (_, x, width), (_, following, _) in itertools.pairwise(boxes):
        canvas.wire((x + width, y + height / 2), (following, y + height / 2), 9, TEAL)
    for name, x, width in boxes:
        canvas.box((x, y), (width, height), 16, "#262a45", "#6d6690")
        canvas.text((x + width / 2, y + height / 2), name, 30, PAPER, anchor="mm", weight=0.4)
        canvas.circle((x, y + height / 2), 10, TEAL)
        if name != boxes[-1][0]:
            canvas.circle((x + width, y + height / 2), 10, TEAL)
    return canvas.finish()


def _face_with_frame(canvas: Canvas, centre: Point, scale: float) -> None:
    """Head and shoulders, the five landmarks, and the corners of a detection frame around the face."""

    def at(x: float, y: float) -> Point:
        return centre[0] + scale * x, centre[1] + scale * y

    canvas.ellipse(at(0, 200), 124 * scale, 84 * scale, CORAL)  # shoulders
    canvas.line([at(0, 60), at(0, 118)], 50 * scale, SHADE)  # neck
    canvas.ellipse(at(0, -8), 82 * scale, 92 * scale, HAIR)
    canvas.ellipse(at(0, 12), 64 * scale, 78 * scale, SAND)
    canvas.ellipse(at(-34, -62), 46 * scale, 34 * scale, HAIR)  # a parting
    canvas.ellipse(at(28, -66), 56 * scale, 30 * scale, HAIR)
    canvas.arc(at(0, 34), 30 * scale, (28, 152), 6 * scale, SHADE)  # a smile between the corners of the mouth
    for x, y in ((-26, 0), (26, 0), (0, 26), (-24, 51), (24, 51)):  # as ArcFace's template: eyes, nose, corners of the mouth
        canvas.circle(at(x, y), 8 * scale, NIGHT)
    left, right, top, bottom, arm = -104, 104, -120, 112, 46
    for x, y, across, down in ((left, top, 1, 1), (right, top, -1, 1), (left, bottom, 1, -1), (right, bottom, -1, -1)):
        canvas.line([at(x + across * arm, y), at(x, y), at(x, y + down * arm)], 13 * scale, TEAL)


def _gradient(size: tuple[int, int], top: str, bottom: str) -> Image.Image:
    ramp = Image.linear_gradient("L").resize(size)
    return Image.composite(Image.new("RGB", size, bottom), Image.new("RGB", size, top), ramp)


def _bezier(points: Sequence[Point], t: float) -> Point:
    while len(points) > 1:
        points = [((1 - t) * x0 + t * x1, (1 - t) * y0 + t * y1) for (x0, y0), (x1, y1) in itertools.pairwise(points)]
    return points[0]


def main(arguments: Sequence[str]) -> None:
    """Write `icon.png` and `banner.png`; the banner keeps 128 colours, which is all it has to show."""
    folder = Path(arguments[0]) if arguments else Path(__file__).resolve().parents[1] / "docs" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    draw_icon().save(folder / "icon.png", optimize=True)
    draw_banner().quantize(128, dither=Image.Dither.FLOYDSTEINBERG).save(folder / "banner.png", optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
