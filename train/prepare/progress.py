"""How far preparing is: records done, of how many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .sources import Units


@dataclass
class Progress:
    """What a bar shows. Of tars nobody knows how many records they have before they are read, so those to come
    count as those that are done."""

    records: int
    """Done, those of an earlier run included."""
    known: int
    """In units that know how many they have."""
    tars: int
    tars_done: int = 0
    in_tars: int = 0
    """Records of the tars that are done in this run."""

    @staticmethod
    def begun(units: Units, is_done: Callable[[int], bool]) -> Progress:
        """Of the units that are done, those whose size is unknown do not count."""
        now = Progress(0, units.records, units.tars)
        for number in filter(is_done, range(len(units))):
            size = units.size_of(number)
            now.records += size or 0
            now.tars -= size is None
        return now

    def count(self, size: int | None, seen: int) -> None:
        """A unit of `size` records is done, None for a tar, which had as many as were `seen`."""
        if size is None:
            self.tars_done += 1
            self.in_tars += seen

    @property
    def total(self) -> int | None:
        """All records, as far as they can be counted; None as long as no tar is done."""
        if not self.tars:
            return self.known
        return self.known + round(self.in_tars / self.tars_done * self.tars) if self.tars_done else None
