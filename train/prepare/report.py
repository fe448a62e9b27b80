"""What preparing did: per unit, and summed up as report.json, dropped.jsonl and report.png."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

MEASURES: dict[str, tuple[str, float, float, int]] = {
    "face": ("Face: longer side of its box, pixels", 0, 800, 40),
    "sharpness": ("Face: sharpness, 0 to 1", 0, 0.4, 40),
    "turn": ("Face: turn of the head to either side, degrees", -90, 90, 36),
    "photo": ("Photograph: shorter side, pixels", 0, 4000, 50),
    "words": ("Caption: words", 0, 80, 40),
}
"""Title, lowest and highest value, and number of bins of each histogram; values beyond count in the last bin."""


def _empty() -> dict[str, list[int]]:
    return {name: [0] * bins for name, (_, _, _, bins) in MEASURES.items()}


@dataclass
class Report:
    """Counts, the reasons of what was dropped, and histograms of kept and dropped records; of a unit a line for each
    dropped one, too."""

    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    lines: list[dict[str, str]] = field(default_factory=list)
    """`key`, `reason` and `detail` of every dropped record of a unit. Of a whole source they would be millions: they
    go to dropped.jsonl, and this stays empty."""
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

    def add(self, other: Report) -> None:
        """Count what another one counts, whose lines are not taken over."""
        self.kept += other.kept
        self.dropped += other.dropped
        for mine, theirs in (
            (self.kept_histograms, other.kept_histograms),
            (self.dropped_histograms, other.dropped_histograms),
        ):
            for name, counts in theirs.items():
                mine[name] = [a + b for a, b in zip(mine[name], counts, strict=True)]

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
