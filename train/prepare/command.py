"""Photographs with captions become shards: `python -m train.prepare SOURCE OUT`.

SOURCE is a folder of pictures with `.txt` captions beside, a .csv, .tsv or .parquet of paths and captions, or
webdataset tars. OUT gets `shard-000000.tar`, ..., report.json, dropped.jsonl and report.png. Every unit of
the source becomes one shard or none, on its own; the same command goes on where a killed run stopped, and
does nothing once all is done.

Of what a source says beside picture and caption, shards keep who it is (`identity`) and what it shows
(`class`, the word that zero-shot classification on held-out shards has to find): columns of a table, or keys
of the `.json` beside a picture or in a tar. Other keys stay behind, since they may tell where or by whom a
picture was taken.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import tyro
from tqdm import tqdm

from faceclip.face import DetectorUnavailableError

from ..data.made_with import claim
from ..data.storage import is_local, join, list_files, publish, publishing, read_bytes
from ..data.workers import Engine, EngineError, run
from ..run.command_line import run_command
from .histograms import draw
from .progress import Progress
from .report import Report
from .sources import Units, find_units
from .unit import UNITS, Options, Work, unit_report

logger = logging.getLogger(__name__)

PLAN = "prepare.json"


class PrepareError(ValueError):
    """Preparing cannot go on: what is wrong, what was found, and what to do."""


def prepare(
    source: str,
    out: str,
    options: Options | None = None,
    *,
    engine: Engine = "processes",
    workers: int = 1,
    gpus: float = 0.0,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Make shards of a source; only units that are not done yet are worked on.

    Args:
        source, out: local paths or fsspec URLs; a folder of pictures must be local.
        workers: processes of this machine, or actors on the Ray cluster.
        gpus: how many GPUs, or what share of one, each actor on Ray is given. Processes share the machine's in turn.
        progress: called at the start, and then as records and units are done.

    Raises:
        SourceError: the source cannot be read.
        PrepareError: `out` holds shards of another source or made with other options; or `gpus` without Ray.
        EngineError: workers died, or Ray is not installed.
        DetectorUnavailableError: no face detector is installed.
    """
    options = options or Options()
    if gpus < 0 or (gpus and engine != "ray"):
        raise PrepareError(
            f"gpus_per_worker is {gpus:g} with the engine {engine}. Only Ray gives GPUs out (--engine ray); processes share "
            "those of this machine in turn, without being told."
        )
    source = str(Path(source).resolve()) if is_local(source) else source
    if is_local(source) and is_local(out) and Path(source) in (Path(out).resolve(), *Path(out).resolve().parents):
        raise PrepareError(
            f"{out} lies within the source, whose pictures would then change. Choose a folder outside of {source}."
        )
    units = find_units(source, options.shard_size, options.columns, need_captions=not options.caption_model)
    _claim(out, source, units, options)
    done = {Path(path).stem for path in list_files(join(out, UNITS))}

    def is_done(number: int) -> bool:
        return Path(unit_report(out, number)).stem in done

    left = sum(not is_done(number) for number in range(len(units)))
    if left:
        logger.info("%d of %d units to do", left, len(units))
    progress = progress or (lambda _: None)
    now = Progress.begun(units, is_done)
    progress(now)

    def add(count: int) -> None:
        now.records += count
        progress(now)

    jobs = ((number, unit) for number, unit in enumerate(units) if not is_done(number))
    for number, data in run(engine, Work(out, options), jobs, workers, gpus=gpus, on_progress=add):
        now.count(units.size_of(number), Report.from_json(data).seen)
        progress(now)
    return _write_report(out, len(units), options)


def _claim(out: str, source: str, units: Units, options: Options) -> None:
    """Note in `out` what it is made from, or check that it is made from the same."""
    digest = hashlib.sha256()
    for unit in units:  # they are made anew for the workers: nobody holds all of them
        digest.update(f"{unit!r}\n".encode())
    plan = {"source": source, "units": len(units), "records": digest.hexdigest(), "options": asdict(options)}
    try:
        claim(out, PLAN, "shards", plan, words={"records": "pictures in the source"})
    except ValueError as error:
        raise PrepareError(str(error)) from error


def _write_report(out: str, units: int, options: Options) -> Report:
    """Sum up the units' reports, one of which is held at a time."""
    report = Report()
    with publishing(join(out, "dropped.jsonl")) as file:
        for number in range(units):
            of_unit = Report.from_json(read_bytes(unit_report(out, number)))
            file.writelines(json.dumps(line).encode() + b"\n" for line in of_unit.lines)
            report.add(of_unit)
    publish(join(out, "report.json"), report.to_json().encode())
    publish(join(out, "report.png"), draw(report, options.filters.limits))
    if is_local(out):
        for left in Path(out).rglob(".*.partial"):  # of runs that were killed
            left.unlink(missing_ok=True)
    return report


@dataclass(frozen=True)
class _Command:
    """Photographs with captions become shards for training. The same command goes on where a killed run stopped."""

    source: tyro.conf.Positional[str]
    """Folder of pictures with .txt captions, a .csv, .tsv or .parquet of paths and captions, or webdataset tars."""
    out: tyro.conf.Positional[str]
    """Folder (or URL) for the shards and the report."""
    options: Options = field(default_factory=Options)
    engine: Engine = "processes"
    """`processes` of this machine, or `ray` for a Ray cluster (set RAY_ADDRESS to join one)."""
    workers: int = max(1, (os.cpu_count() or 2) - 1)
    """How many work at once."""
    gpus_per_worker: float = 0.0
    """GPUs, or a share of one, that Ray gives each worker, for detector and captions. Processes share this machine's
    in turn, without it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 when finished, 1 for an error that it explains."""
    return run_command(lambda: _run(argv), EngineError, DetectorUnavailableError)


def _run(argv: Sequence[str] | None) -> None:
    command = tyro.cli(tyro.conf.OmitArgPrefixes[_Command], args=argv, prog="python -m train.prepare")
    with tqdm(desc="prepare", unit=" photos", smoothing=0.05) as bar:

        def advance(now: Progress) -> None:
            if bar.total is None:  # the first time: what was done before says nothing of the pace
                bar.initial = bar.n = now.records
            bar.total = now.total
            bar.update(now.records - bar.n)

        report = prepare(
            command.source,
            command.out,
            command.options,
            engine=command.engine,
            workers=command.workers,
            gpus=command.gpus_per_worker,
            progress=advance,
        )
    print(f"{report.summary()}\nReport: {join(command.out, 'report.png')}, {join(command.out, 'dropped.jsonl')}")
