"""The picture of a report: how many records were kept and why others
were not, and how what was measured is spread."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .report import MEASURES, Report

WIDTH = 900
_LEFT, _RIGHT, _TOP, _PLOT, _PANEL, _LINE = 90, 30, 28, 120, 200, 22
_REASON_LEFT = 280
_KEPT, _DROPPED, _LIMIT = (52, 110, 180), (214, 125, 92), (150, 20, 20)
_INK, _FAINT, _GRID, _PAPER = (30, 30, 30), (110, 110, 110), (228, 228, 228), (255, 255, 255)

Limits = Mapping[str, Sequence[float]]
"""Where the filters cut, by the names of `MEASURES`."""


def draw(report: Report, limits: Limits) -> bytes:
    """A PNG: reasons with their counts, and a histogram per measure, kept
    under dropped, with the filters' limits as lines."""
    head = 3 * _LINE + _LINE * max(len(report.dropped), 1) + 10
    image = Image.new("RGB", (WIDTH, head + len(MEASURES) * _PANEL + 10), _PAPER)
    canvas = ImageDraw.Draw(image)
    fonts = {"title": ImageFont.load_default(18), "text": ImageFont.load_default(14), "small": ImageFont.load_default(12)}
    _reasons(canvas, fonts, report)
    for number, name in enumerate(MEASURES):
        _panel(canvas, fonts, name, report, limits.get(name, ()), head + number * _PANEL)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _reasons(canvas: ImageDraw.ImageDraw, fonts: Mapping[str, Any], report: Report) -> None:
    share = f" ({report.kept / report.seen:.1%})" if report.seen else ""
    canvas.text((_RIGHT, 12), f"{report.kept:,} of {report.seen:,} records kept{share}", _INK, font=fonts["title"])
    for x, colour, label in ((600, _KEPT, "kept"), (670, _DROPPED, "dropped")):
        canvas.rectangle((x, 16, x + 12, 28), fill=colour)
        canvas.text((x + 18, 14), label, _INK, font=fonts["text"])
    canvas.line((768, 15, 768, 29), fill=_LIMIT, width=2)
    canvas.text((776, 14), "filter's limit", _INK, font=fonts["text"])
    y, most = 2 * _LINE, max(report.dropped.values(), default=1)
    if not report.dropped:
        canvas.text((_RIGHT, y), "nothing dropped", _FAINT, font=fonts["text"])
    for reason, count in sorted(report.dropped.items(), key=lambda item: (-item[1], item[0])):
        canvas.text((170, y), reason, _INK, font=fonts["text"], anchor="ra")
        canvas.text((_REASON_LEFT - 10, y), f"{count:,}", _INK, font=fonts["text"], anchor="ra")
        width = max(1, round((WIDTH - _RIGHT - _REASON_LEFT) * count / most))
        canvas.rectangle((_REASON_LEFT, y + 1, _REASON_LEFT + width, y + 14), fill=_DROPPED)
        y += _LINE


def _panel(
    canvas: ImageDraw.ImageDraw, fonts: Mapping[str, Any], name: str, report: Report, limits: Sequence[float], top: int
) -> None:
    title, low, high, bins = MEASURES[name]
    kept, dropped = np.array(report.kept_histograms[name]), np.array(report.dropped_histograms[name])
    measured, tallest = int((kept + dropped).sum()), max(int((kept + dropped).max()), 1)
    bottom, width = top + _TOP + _PLOT, WIDTH - _LEFT - _RIGHT
    canvas.text((_LEFT, top + 4), title, _INK, font=fonts["text"])
    canvas.text((WIDTH - _RIGHT, top + 5), f"{measured:,} records measured", _FAINT, font=fonts["small"], anchor="ra")
    for part in (0.5, 1.0):
        y = bottom - part * _PLOT
        canvas.line((_LEFT, y, WIDTH - _RIGHT, y), fill=_GRID)
        canvas.text(
            (_LEFT - 8, y),
            f"{tallest * part:,.4g}" if tallest < 2 else f"{round(tallest * part):,}",
            _FAINT,
            fonts["small"],
            "rm",
        )
    for number in range(bins):
        left, right = _LEFT + number * width / bins, _LEFT + (number + 1) * width / bins - 2
        floor = float(bottom)
        for count, colour in ((kept[number], _KEPT), (dropped[number], _DROPPED)):
            if count:
                # What is there is seen, however few it is.
                ceiling = min(floor - _PLOT * count / tallest, floor - 1)
                canvas.rectangle((left, ceiling, right, floor), fill=colour)
                floor = ceiling
    canvas.line((_LEFT, bottom, WIDTH - _RIGHT, bottom), fill=_INK)
    ticks = 6 if low < 0 else 8
    for tick in range(ticks + 1):
        x, value = _LEFT + width * tick / ticks, low + (high - low) * tick / ticks
        canvas.line((x, bottom, x, bottom + 4), fill=_INK)
        beyond = " +" if tick == ticks else ""
        canvas.text((x, bottom + 6), f"{value:g}{beyond}", _FAINT, font=fonts["small"], anchor="ma")
    for limit in limits:
        x = _LEFT + width * (limit - low) / (high - low)
        if _LEFT <= x <= WIDTH - _RIGHT:
            canvas.line((x, top + _TOP - 2, x, bottom), fill=_LIMIT, width=2)
            canvas.text((x + 5, top + _TOP - 4), f"{limit:g}", _LIMIT, font=fonts["small"])
