"""One unit of a source becomes one shard and one report: what a worker of `train.prepare` does."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

from faceclip.face import Backend, Provider, load_detector

from ..data.shards import Sample, write_shard
from ..data.storage import join, publish
from ..data.workers import tell, worker_device
from .captioner import load_captioner
from .filters import DroppedError, Filters, Opened, Preparer
from .report import Report
from .sources import BrokenRecord, Columns, Record, Unit

UNITS = "units"
BROKEN = "broken record"
TOGETHER = 16
"""Records that are looked at together, at most."""
PIXELS_TOGETHER = 64_000_000
"""Pixels of their photographs, about: 0.2 GB."""


@dataclass(frozen=True)
class DetectorChoice:
    """Which face detector looks for faces (`faceclip.face.load_detector`)."""

    detector: Backend = "yunet"
    """`yunet` comes with FaceCLIP and looks at photographs in batches, on a GPU where there is one; `auto` takes
    InsightFace where it and its pack are there."""
    pack: str = "buffalo_l"
    """InsightFace's model pack."""
    provider: Provider = "auto"
    """Where InsightFace runs."""


@dataclass(frozen=True)
class Options:
    """What decides the shards' contents; a resumed run must have the same."""

    filters: Filters = field(default_factory=Filters)
    columns: Columns = field(default_factory=Columns)
    face_detector: DetectorChoice = field(default_factory=DetectorChoice)
    shard_size: int = 1000
    """Records of the source per shard; of tars, each becomes one shard."""
    caption_model: str = ""
    """Image-to-text model of transformers, a name or a folder, that writes the captions which are missing."""
    caption_prompt: str = ""
    """What the model is asked, for models that take a prompt."""


@dataclass(frozen=True)
class Work:
    """Makes one shard of one unit. Sent to the workers."""

    out: str
    options: Options

    def __call__(self, job: tuple[int, Unit]) -> tuple[int, bytes]:
        """Write the unit's shard, if any record is kept, then its report, which marks the unit as done.

        Return the unit's number and that report, as JSON.
        """
        number, unit = job
        report = Report()
        samples = self._samples(unit, report)
        first = next(samples, None)
        if first is not None:
            write_shard(join(self.out, f"shard-{number:06d}.tar"), chain([first], samples))
        data = report.to_json().encode()
        publish(unit_report(self.out, number), data)
        return number, data

    def _samples(self, unit: Unit, report: Report) -> Iterator[Sample]:
        prepare = preparer(self.options)
        keys: set[str] = set()
        for group in _groups(map(partial(_opened, prepare), unit.records())):
            made = iter(prepare.together([each for _, each in group if isinstance(each, Opened)]))
            for key, each in group:
                found = next(made) if isinstance(each, Opened) else each
                if key in keys and not (isinstance(found, DroppedError) and found.reason == BROKEN):
                    found = DroppedError("repeated key", "another record of this shard has the same name", {})
                if isinstance(found, DroppedError):
                    report.drop(key, found.reason, found.detail, found.measured)
                else:
                    assert isinstance(each, Opened)
                    keys.add(key)
                    report.keep(each.measured)
                    yield found
                tell()


def _opened(prepare: Preparer, record: Record | BrokenRecord) -> tuple[str, Opened | DroppedError]:
    """A record's key, and what is known of it before anything looks for faces."""
    if isinstance(record, BrokenRecord):
        return record.key, DroppedError(BROKEN, record.problem, {})
    try:
        return record.key, prepare.open(record)
    except DroppedError as dropped:
        return record.key, dropped


def _groups(records: Iterable[tuple[str, Opened | DroppedError]]) -> Iterator[list[tuple[str, Opened | DroppedError]]]:
    """Runs of records that are looked at together."""
    group: list[tuple[str, Opened | DroppedError]] = []
    pixels = 0
    for key, each in records:
        group.append((key, each))
        pixels += each.photo.shape[0] * each.photo.shape[1] if isinstance(each, Opened) else 0
        if len(group) == TOGETHER or pixels >= PIXELS_TOGETHER:
            yield group
            group, pixels = [], 0
    if group:
        yield group


@functools.lru_cache(maxsize=1)
def preparer(options: Options) -> Preparer:
    """The preparer of a process: its detector takes seconds to load and serves all units."""
    chosen = options.face_detector
    filters, device = options.filters, worker_device()
    detector = load_detector(chosen.detector, chosen.pack, chosen.provider, device=device) if filters.faces else None
    captioner = load_captioner(options.caption_model, options.caption_prompt, device) if options.caption_model else None
    return Preparer(filters, detector, captioner)


def unit_report(out: str, number: int) -> str:
    """Where a unit's report lies; it is written last, so it marks the unit as done."""
    return join(join(out, UNITS), f"{number:06d}.json")
