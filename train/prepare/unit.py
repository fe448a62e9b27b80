"""One unit of a source becomes one shard and one report: what a worker of `train.prepare` does."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

from faceclip.face import Backend, Provider, load_detector

from ..data.shards import Sample, write_shard
from ..data.storage import join, publish
from .captioner import load_captioner
from .filters import DroppedError, Filters, Preparer
from .report import Report
from .sources import BrokenRecord, Columns, Unit

UNITS = "units"


@dataclass(frozen=True)
class DetectorChoice:
    """Which face detector looks for faces (`faceclip.face.load_detector`)."""

    detector: Backend = "auto"
    """`auto` takes InsightFace where it and its pack are there, else yunet, which comes with FaceCLIP."""
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

    def __call__(self, job: tuple[int, Unit]) -> bytes:
        """Write the unit's shard, if any record is kept, then its report, which marks the unit as done.

        Return that, as JSON.
        """
        number, unit = job
        report = Report()
        samples = self._samples(unit, report)
        first = next(samples, None)
        if first is not None:
            write_shard(join(self.out, f"shard-{number:06d}.tar"), chain([first], samples))
        data = report.to_json().encode()
        publish(unit_report(self.out, number), data)
        return data

    def _samples(self, unit: Unit, report: Report) -> Iterator[Sample]:
        prepare_one = preparer(self.options)
        keys: set[str] = set()
        for record in unit.records():
            if isinstance(record, BrokenRecord):
                report.drop(record.key, "broken record", record.problem)
                continue
            if record.key in keys:
                report.drop(record.key, "repeated key", "another record of this shard has the same name")
                continue
            try:
                sample = prepare_one(record)
            except DroppedError as dropped:
                report.drop(record.key, dropped.reason, dropped.detail, dropped.measured)
                continue
            keys.add(record.key)
            report.keep(prepare_one.measured)
            yield sample


@functools.lru_cache(maxsize=1)
def preparer(options: Options) -> Preparer:
    """The preparer of a process: its detector takes seconds to load and serves all units."""
    chosen = options.face_detector
    detector = load_detector(chosen.detector, chosen.pack, chosen.provider) if options.filters.faces else None
    captioner = load_captioner(options.caption_model, options.caption_prompt) if options.caption_model else None
    return Preparer(options.filters, detector, captioner)


def unit_report(out: str, number: int) -> str:
    """Where a unit's report lies; it is written last, so it marks the unit as done."""
    return join(join(out, UNITS), f"{number:06d}.json")
