"""What preparing did: per unit, and summed up as report.json, dropped.jsonl and report.png."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MEASURES: dict[str, tuple[str, float, float, int]] = {
    "face": ("face, px", 0, 1000, 40),
    "sharpness": ("sharpness of the face", 0, 0.6, 40),
    "turn": ("turn of the head, degrees", -90, 90, 36),
    "photo": ("photograph's shorter side, px", 0, 4000, 40),
    "words": ("words of the caption", 0, 80, 40),
}
"""Title, lowest and highest value, and number of bins of each histogram; values beyond count in the last bin."""

_WIDTH, _PANEL, _MARGIN, _LINE = 720, 150, 40, 18
_KEPT, _DROPPED, _INK, _PAPER = (52, 110, 180), (205, 120, 90), (30, 30, 30), (255, 255, 255)


def _empty() -> dict[str, list[int]]:
    return {name: [0] * bins for name, (_, _, _, bins) in MEASURES.items()}


@dataclass
class Report:
    """Counts, the reasons of what was dropped, a line for each dropped record, and histograms of kept and dropped ones."""

    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    lines: list[dict[str, str]] = field(default_factory=list)
    """`key`, `reason` and `detail` of every dropped record."""
    kept_histograms: dict[str, list[int]] = field(default_factory=_empty)
    dropped_histograms: dict[str, list[int]] = field(default_factory=_empty)

    @property
    def seen(self) -> int:
        return self.kept + sum(self.dropped.values())

    def keep(self, measured: Mapping[str, float]) -> None:
        """Count a record that was kept."""
        self.kept += 1
        _count(self.kept_histograms, measured)

    def drop(self, key: str, reason: str, detail: str, measured: Mapping[str, float] | None = None) -> None:
        """Count a record that was left out."""
        self.dropped[reason] += 1
        self.lines.append({"key": key, "reason": reason, "detail": " ".join(detail.split())})
        _count(self.dropped_histograms, measured or {})

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "dropped": dict(self.dropped)}, sort_keys=True)

    @staticmethod
    def from_json(text: str | bytes) -> Report:
        values: dict[str, Any] = json.loads(text)
        return Report(**{**values, "dropped": Counter(values["dropped"])})

    @staticmethod
    def total(reports: Iterable[Report]) -> Report:
        """The sum of several, lines in their order."""
        whole = Report()
        for report in reports:
            whole.kept += report.kept
            whole.dropped += report.dropped
            whole.lines += report.lines
            for mine, theirs in (
                (whole.kept_histograms, report.kept_histograms),
                (whole.dropped_histograms, report.dropped_histograms),
            ):
                for name, counts in theirs.items():
                    mine[name] = [a + b for a, b in zip(mine[name], counts, strict=True)]
        return whole

    def summary(self) -> str:
        """A few lines for a person."""
        lines = [f"{self.kept:,} kept of {self.seen:,}"]
        lines += [f"  {count:>9,}  {reason}" for reason, count in self.dropped.most_common()]
        return "\n".join(lines)


def _count(histograms: dict[str, list[int]], measured: Mapping[str, float]) -> None:
    for name, value in measured.items():
        _, low, high, bins = MEASURES[name]
        place = int((value - low) / (high - low) * bins)
        histograms[name][min(max(place, 0), bins - 1)] += 1


def draw(report: Report) -> bytes:
    """The histograms, kept under dropped, and the reasons, as a PNG."""
    text = report.summary().splitlines()
    height = _MARGIN * 2 + _LINE * len(text) + len(MEASURES) * (_PANEL + _MARGIN)
    image = Image.new("RGB", (_WIDTH, height), _PAPER)
    canvas = ImageDraw.Draw(image)
    font = ImageFont.load_default(14)
    y = _MARGIN // 2
    for line in text:
        canvas.text((_MARGIN, y), line, _INK, font=font)
        y += _LINE
    for colour, label, x in ((_KEPT, "kept", 500), (_DROPPED, "dropped", 580)):
        canvas.rectangle((x, _MARGIN // 2, x + 12, _MARGIN // 2 + 12), fill=colour)
        canvas.text((x + 18, _MARGIN // 2 - 2), label, _INK, font=font)
    for name in MEASURES:
        y += _MARGIN
        _panel(canvas, font, name, report, y)
        y += _PANEL
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _panel(canvas: ImageDraw.ImageDraw, font: Any, name: str, report: Report, top: int) -> None:
    title, low, high, bins = MEASURES[name]
    kept, dropped = np.array(report.kept_histograms[name]), np.array(report.dropped_histograms[name])
    tallest = max(int((kept + dropped).max()), 1)
    width, room, bottom = (_WIDTH - 2 * _MARGIN) / bins, _PANEL - 2 * _LINE, top + _PANEL - _LINE
    canvas.text((_MARGIN, top), f"{title} (highest bar: {tallest:,})", _INK, font=font)
    for bin_number in range(bins):
        left, floor = _MARGIN + bin_number * width, float(bottom)
        for count, colour in ((kept[bin_number], _KEPT), (dropped[bin_number], _DROPPED)):
            if count:
                ceiling = floor - room * count / tallest
                canvas.rectangle((left, ceiling, left + width - 2, floor), fill=colour)
                floor = ceiling
    canvas.line((_MARGIN, bottom, _WIDTH - _MARGIN, bottom), fill=_INK)
    canvas.text((_MARGIN, bottom + 2), f"{low:g}", _INK, font=font)
    canvas.text((_WIDTH - _MARGIN, bottom + 2), f"{high:g}", _INK, font=font, anchor="ra")
