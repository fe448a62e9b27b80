"""One picture that shows a run: a row for each person with the photo,
its numbered faces, the aligned crop, the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

_PAPER, _INK, _GREY, _LINE = (250, 249, 246), (28, 28, 30), (110, 110, 115), (222, 220, 214)
_NOTICE_PAPER, _NOTICE_INK = (255, 240, 205), (110, 70, 0)
_MARGIN, _GAP, _PANEL_HEIGHT, _MAX_PANEL_WIDTH = 40, 28, 300, 600
_ROW_HEIGHT = _PANEL_HEIGHT + 78


@dataclass(frozen=True)
class Panel:
    """One picture of the sheet, its heading and the line below."""

    picture: Image.Image
    heading: str
    detail: str


@dataclass(frozen=True)
class Sheet:
    """What the sheet says besides its panels.

    columns: words above each column of panels. notice: "" if there is nothing to add.
    """

    title: str
    columns: Sequence[str]
    footer: str
    notice: str = ""


def draw_sheet(sheet: Sheet, rows: Sequence[Sequence[Panel]]) -> Image.Image:
    """Lay the panels out in rows of equal height under the title. Returns an RGB picture."""
    pictures = [[_fit(panel.picture) for panel in row] for row in rows]
    width = 2 * _MARGIN + max(sum(picture.width for picture in row) + _GAP * (len(row) - 1) for row in pictures)
    above = [_wrap(words, _font(17), picture.width) for words, picture in zip(sheet.columns, pictures[0], strict=True)]
    notice = _wrap(sheet.notice, _font(16), width - 2 * _MARGIN - 32) if sheet.notice else []
    heads = _MARGIN + 54 + 23 * max(map(len, above))  # where the columns' words end
    top = heads + 14
    below = top + _ROW_HEIGHT * len(rows)
    height = below + (28 + 23 * len(notice) + 18 if notice else 0) + 24 + _MARGIN

    page = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((_MARGIN, _MARGIN - 6), sheet.title, fill=_INK, font=_font(32))
    left = _MARGIN
    for words, picture in zip(above, pictures[0], strict=True):
        for row, line in enumerate(words):
            draw.text((left, heads - 23 * (len(words) - row)), line, fill=_INK, font=_font(17))
        left += picture.width + _GAP
    for number, (panels, fitted) in enumerate(zip(rows, pictures, strict=True)):
        _draw_row(page, panels, fitted, top + _ROW_HEIGHT * number)
    if notice:
        draw.rounded_rectangle((_MARGIN, below, width - _MARGIN, below + 24 + 23 * len(notice)), 8, fill=_NOTICE_PAPER)
        for row, line in enumerate(notice):
            draw.text((_MARGIN + 16, below + 11 + 23 * row), line, fill=_NOTICE_INK, font=_font(16))
    draw.text((_MARGIN, height - _MARGIN - 10), sheet.footer, fill=_GREY, font=_font(13))
    return page


def _draw_row(page: Image.Image, panels: Sequence[Panel], pictures: Sequence[Image.Image], top: int) -> None:
    draw, left = ImageDraw.Draw(page), _MARGIN
    for panel, picture in zip(panels, pictures, strict=True):
        box_top = top + (_PANEL_HEIGHT - picture.height) // 2
        page.paste(picture, (left, box_top))
        draw.rectangle((left - 1, box_top - 1, left + picture.width, box_top + picture.height), outline=_LINE)
        draw.text((left, top + _PANEL_HEIGHT + 12), panel.heading, fill=_INK, font=_font(18))
        draw.text((left, top + _PANEL_HEIGHT + 37), panel.detail, fill=_GREY, font=_font(14))
        left += picture.width + _GAP


def _fit(picture: Image.Image) -> Image.Image:
    """The picture at the panels' height, or lower if it is very wide."""
    scale = min(_PANEL_HEIGHT / picture.height, _MAX_PANEL_WIDTH / picture.width)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)  # Pillow's own font: the same sheet on every machine
