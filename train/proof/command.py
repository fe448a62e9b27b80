"""Rerun docs/proof.md: the paper's findings on a synthetic world, with teachers and judges trained for it.

    python -m train.proof --quick                      under 10 minutes on 2 cores: that everything works, no evidence
    python -m train.proof --out RUNS --processes 2     what docs/proof.md reports; may be killed and started again
    python -m train.proof --out RUNS --restore docs/proof/results.json     tables and plots of the published results

Every job leaves one JSON file below OUT/results and is skipped when
it is there; tables and plots are made at the end.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from tqdm import tqdm

from ..data.storage import publish
from ..data.workers import EngineError
from ..run.command_line import run_command
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
    """Take results from this file, such as docs/proof/results.json, where
    --out has none, and report them: nothing is run."""
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
    return run_command(lambda: _run(argv), EngineError, level=logging.WARNING)


def _run(argv: Sequence[str] | None) -> None:
    command = tyro.cli(_Command, args=argv, prog="python -m train.proof")
    shop = Workshop(command.out, command.plan())
    report = command.report or (Path("docs/proof") if shop.plan.name == "full" else command.out / "report")
    if command.restore:
        restore(shop, command.restore)
        _write_report(shop, report)
        return
    jobs = [job for job in all_jobs(shop.plan) if job.matches(command.only)]
    missing = [job for job in jobs if not shop.is_done(job.name)]
    print(estimate(missing, shop.plan, command.processes))
    if command.dry:
        return
    with tqdm(desc="proof", total=len(jobs), initial=len(jobs) - len(missing), unit=" jobs") as bar:
        for job in do(shop, jobs, command.processes):
            bar.set_postfix_str(job.name)
            bar.update()
    _write_report(shop, report)


def _write_report(shop: Workshop, folder: Path) -> None:
    write_report(shop, folder)
    print(f"Tables and plots are in {folder}.")
