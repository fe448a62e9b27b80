"""Pixels with words, for people to read on a node: photos with numbered
faces, the crops, and what is to be said of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH = 960
"""Of a sheet, in pixels: three times as wide as a node usually is, so
that its words are read there and sharp when enlarged."""
LETTERS = 38  # px; on a node of 320 px, 13
MOST_PICTURES = 12  # of photos, and of crops; more are too small to be looked at
_MOST_LINES = 16
_ROW = {1: 560, 2: 420, 3: 320}  # height of the rows of pictures, by how many rows there are; 240 for more
_GAP, _MARGIN = 8, 20
_PAPER, _INK = (28, 28, 32), (235, 235, 235)


def draw_words(text: str, width: int = WIDTH) -> np.ndarray:
    """`text` on dark paper: uint8 [H, width, 3]. Lines are wrapped; what is beyond 16 of them ends in an ellipsis."""
    font = ImageFont.load_default(size=LETTERS)
    lines = [part for line in text.splitlines() for part in wrapped(line, font, width - 2 * _MARGIN)]
    if len(lines) > _MOST_LINES:
        lines = [*lines[: _MOST_LINES - 1], f"{lines[_MOST_LINES - 1][:-1]}…"]
    step = round(1.3 * LETTERS)
    paper = Image.new("RGB", (width, step * max(1, len(lines)) + 2 * _MARGIN), _PAPER)
    pen = ImageDraw.Draw(paper)
    for place, line in enumerate(lines):
        pen.text((_MARGIN, _MARGIN + step * place), line, font=font, fill=_INK)
    return np.array(paper)


def draw_sheet(pictures: Sequence[np.ndarray], text: str) -> np.ndarray:
    """Pictures (uint8 [H, W, 3], any sizes) side by side in rows, and `text` below them: uint8 [H, WIDTH, 3]."""
    rows = _rows(pictures)
    height = next((height for count, height in _ROW.items() if len(rows) <= count), 240)
    strips = [_strip(row, height) for row in rows]
    return np.concatenate([*strips, draw_words(text)]) if text or not strips else np.concatenate(strips)


def _rows(pictures: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """Two in a row, three where there are more than four, four where there are more than nine."""
    across = 2 if len(pictures) <= 4 else 3 if len(pictures) <= 9 else 4
    return [list(pictures[start : start + across]) for start in range(0, len(pictures), across)]


def _strip(row: Sequence[np.ndarray], height: int) -> np.ndarray:
    """Pictures at one height beside each other, in the middle of the sheet's width."""
    wide = sum(picture.shape[1] / picture.shape[0] for picture in row)
    height = min(height, int((WIDTH - _GAP * (len(row) - 1)) / wide))
    widths = [max(1, round(height * picture.shape[1] / picture.shape[0])) for picture in row]
    paper = Image.new("RGB", (WIDTH, height + _GAP), _PAPER)
    left = max(0, WIDTH - sum(widths) - _GAP * (len(row) - 1)) // 2
    for picture, width in zip(row, widths, strict=True):
        paper.paste(Image.fromarray(picture).resize((width, max(1, height)), Image.Resampling.LANCZOS), (left, 0))
        left += width + _GAP
    return np.array(paper)


def wrapped(line: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: float) -> list[str]:
    """A line in parts that are no wider, broken between words, and within words that are wider alone."""
    lines, current = [], ""
    for word in line.split():
        longer = f"{current} {word}".strip()
        if font.getlength(longer) <= width:
            current = longer
            continue
        lines += [current] if current else []
        while font.getlength(word) > width:
            fits = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or font.getlength(word[:n]) <= width)
            lines.append(word[:fits])
            word = word[fits:]
        current = word
    return [*lines, current]
