"""How much of an identity has a say when: a strength for each part of the sampling, from noise to picture."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

LARGEST = 1.5  # of a strength
_EXAMPLE = 'Write START:STRENGTH, separated by commas, such as "0:0.4, 0.3:1".'


@dataclass(frozen=True)
class Part:
    """From `start` to `end` (shares of the sampling, 0 to 1) the identity has `strength`; 0 is text alone."""

    start: float
    end: float
    strength: float


def strength_parts(strength: float, start: float = 0.0, end: float = 1.0, schedule: str = "") -> list[Part]:
    """The whole sampling in parts, in order and without gaps; neighbours differ in strength.

    Args:
        strength: of the identity where `schedule` says nothing.
        start, end: shares of the sampling between which the identity has a say; outside it is text alone.
        schedule: "START:STRENGTH, ...", each strength held until the next start; empty for `strength` all through.

    Raises ValueError for a range that is none, and for a schedule that cannot be read, with the wrong entry.
    """
    if not 0 <= start < end <= 1:
        raise ValueError(
            f"start_percent is {start:g} and end_percent {end:g}: the start must come before the end, both from 0 (noise) to 1."
        )
    steps = [(0.0, strength), *_read(schedule)]
    borders = sorted({0.0, start, end, 1.0, *(place for place, _ in steps)})
    parts: list[Part] = []
    for left, right in itertools.pairwise(borders):
        held = [value for place, value in steps if place <= left][-1] if start <= left < end else 0.0
        if parts and parts[-1].strength == held:
            parts[-1] = Part(parts[-1].start, right, held)
        else:
            parts.append(Part(left, right, held))
    return parts


def _read(schedule: str) -> list[tuple[float, float]]:
    steps: list[tuple[float, float]] = []
    for entry in filter(None, (part.strip() for part in schedule.replace("\n", ",").split(","))):
        try:
            place, strength = (float(number) for number in entry.split(":"))
        except ValueError:
            raise ValueError(f"The strength schedule has {entry!r}, which cannot be read. {_EXAMPLE}") from None
        if not 0 <= place < 1:  # so written that NaN is refused
            raise ValueError(f"The strength schedule has {entry!r}: a start is from 0 (noise) to below 1. {_EXAMPLE}")
        if not 0 <= strength <= LARGEST:
            raise ValueError(f"The strength schedule has {entry!r}: a strength is from 0 to {LARGEST:g}. {_EXAMPLE}")
        if steps and place <= steps[-1][0]:
            raise ValueError(f"The strength schedule has {entry!r} after {steps[-1][0]:g}: starts must rise. {_EXAMPLE}")
        steps.append((place, strength))
    return steps
