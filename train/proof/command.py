"""Rerun docs/proof.md: the paper's findings on a synthetic world, with teachers and judges trained for it.

    python -m train.proof --quick                      under 10 minutes on 2 cores: that everything works, no evidence
    python -m train.proof --out RUNS --processes 2     what docs/proof.md reports; may be killed and started again
    python -m train.proof --out RUNS --restore docs/proof/results.json     tables and plots of the published results

Every job leaves one JSON file below OUT/results and is skipped when it is there; tables and plots are made at the end.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from tqdm import tqdm

from ..data.storage import publish
from ..data.workers import EngineError
from .estimate import estimate
from .jobs import all_jobs, do
from .plan import FULL, QUICK, Plan
from .report.plots import draw_all
from .report.results import all_results, restore
from .report.tables import tables
from .workshop import Workshop


@dataclass(frozen=True)
class _Command:
    """Rerun the proof. The same command goes on where a stopped one was."""

    quick: bool = False
    """The small plan: it shows that the commands work, its numbers show nothing."""
    out: Path = Path("proof_runs")
    """Folder for worlds, runs and results."""
    only: tuple[str, ...] = ()
    """Jobs to do, by STAGE, STAGE/ARM or STAGE/ARM/SEED; what they need must be there. All by default."""
    seeds: int | None = None
    """Fewer or more seeds than the plan's."""
    processes: int = 2
    """Jobs side by side, of one thread each."""
    report: Path | None = None
    """Folder for tables and plots; docs/proof by default, and below --out for --quick."""
    restore: Path | None = None
    """Take results from this file, such as docs/proof/results.json, where --out has none, and report them: nothing is run."""
    dry: bool = False
    """Print how long what is missing will take, and end."""

    def plan(self) -> Plan:
        plan = QUICK if self.quick else FULL
        if self.seeds is None:
            return plan
        return replace(plan, seeds=self.seeds, sweep_seeds=min(self.seeds, plan.sweep_seeds))


def write_report(shop: Workshop, folder: Path) -> None:
    """Tables (`results.md`), plots, and all results (`results.json`), of what is finished."""
    draw_all(shop, folder)
    publish(str(folder / "results.md"), tables(shop).encode())
    publish(str(folder / "results.json"), json.dumps(all_results(shop), indent=1).encode() + b"\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 when finished, 1 for an error that it explains."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    command = tyro.cli(_Command, args=argv, prog="python -m train.proof")
    shop = Workshop(command.out, command.plan())
    report = command.report or (Path("docs/proof") if shop.plan.name == "full" else command.out / "report")
    if command.restore:
        return _report_again(shop, command.restore, report)
    jobs = [job for job in all_jobs(shop.plan) if job.matches(command.only)]
    missing = [job for job in jobs if not shop.is_done(job.name)]
    print(estimate(missing, shop.plan, command.processes))
    if command.dry:
        return 0
    try:
        with tqdm(desc="proof", total=len(jobs), initial=len(jobs) - len(missing), unit=" jobs") as bar:
            for job in do(shop, jobs, command.processes):
                bar.set_postfix_str(job.name)
                bar.update()
    except (ValueError, EngineError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return _finished(shop, report)


def _report_again(shop: Workshop, file: Path, folder: Path) -> int:
    try:
        restore(shop, file)
    except (OSError, ValueError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return _finished(shop, folder)


def _finished(shop: Workshop, folder: Path) -> int:
    write_report(shop, folder)
    print(f"Tables and plots are in {folder}.")
    return 0
