"""A blind comparison of two folders of pictures: `python -m train.study DIR_A DIR_B` (paper, section 4.4).

Serves a page on this machine that shows pairs of the same file name in random order, on random sides. Votes
go to a CSV, one line each; a voter who comes back under the same name goes on where they stopped. `--report`
tells what the votes say.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from faceclip.metrics import Interval, MetricUnavailableError

from ..evaluate.protocol import ProtocolError
from ..run.command_line import run_command
from .votes import QUESTIONS, Preference, VoteFile, find_pairs, fingerprint, preferences, read_votes, require_study


@dataclass(frozen=True)
class StudyCommand:
    """Compare two folders of pictures blind, or report what was voted."""

    a: tyro.conf.Positional[Path]
    """Folder of pictures."""
    b: tyro.conf.Positional[Path]
    """Folder of pictures with the same file names (any picture format)."""
    votes: Path = Path("votes.csv")
    """Where votes are kept; appended to."""
    protocol: str = ""
    """A .csv (see `python -m train.evaluate list`), or a protocol, that gives prompts and references."""
    faces: Path | None = None
    """Its folder of people."""
    report: bool = False
    """Print what the votes say, and serve nothing."""
    port: int = 7860
    """On 127.0.0.1."""
    level: float = 0.95
    """Of the report's intervals."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 when finished, 1 for an error that it explains."""
    return run_command(lambda: _run(argv), MetricUnavailableError, OSError)


def _run(argv: Sequence[str] | None) -> None:
    command = tyro.cli(StudyCommand, args=argv, prog="python -m train.study")
    try:
        if command.report:
            print(report(command))
        else:
            serve(command)
    except KeyboardInterrupt:  # the way to stop the page
        print()


def serve(command: StudyCommand) -> None:
    """Serve the page until Ctrl-C. Raises ProtocolError for folders that do
    not pair, MetricUnavailableError without gradio."""
    from .page import launch

    pairs = find_pairs(command.a, command.b, command.protocol, command.faces)
    votes = VoteFile(command.votes, fingerprint(pairs))
    print(f"{len(pairs)} pairs. Votes: {command.votes}. Open http://127.0.0.1:{command.port} and stop with Ctrl-C.")
    try:
        # Gradio keeps each picture that it shows in a file of its own.
        with tempfile.TemporaryDirectory(prefix="faceclip_study_") as shown:
            os.environ["GRADIO_TEMP_DIR"] = shown
            launch(pairs, votes, command.port)
    except OSError as error:
        raise ProtocolError(f"The page cannot be served on port {command.port}: choose another with --port. ({error})") from error


def report(command: StudyCommand) -> str:
    """What the votes say, as Markdown. Raises ProtocolError if there is none."""
    votes = read_votes(command.votes)
    found = preferences(votes, command.level)
    if not found:
        raise ProtocolError(f"Nobody has voted yet: {command.votes} has no vote.")
    if known := any(vote.study for vote in votes):
        require_study(command.votes, votes, fingerprint(find_pairs(command.a, command.b)))
    about = f"A = {command.a}, B = {command.b}: " if known else _UNKNOWN
    voters, pairs = ({getattr(vote, name) for vote in votes} for name in ("voter", "pair"))
    lines = [
        f"{about}{len(votes)} votes of {len(voters)} voters on {len(pairs)} pairs.",
        "",
        "| question | A | B | same | A preferred | over pairs | over voters | left side | verdict |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *map(_line, found),
        "",
        f"Shares are of the votes for A or B, with {command.level:.0%} intervals: as if all votes were independent (Wilson), and "
        "by bootstrap over pairs and over voters, who are not. The verdict asks all of them to leave out 50 %.",
    ]
    return "\n".join(lines)


_UNKNOWN = "A and B are the folders that the study was started with, in that order; this file does not say which. "


def _line(found: Preference) -> str:
    decided = found.a + found.b
    cells = [
        QUESTIONS[found.question],
        str(found.a),
        str(found.b),
        str(found.same),
        _share(found.independent),
        _share(found.over_pairs),
        _share(found.over_voters),
        f"{found.left / decided:.0%}" if decided else "-",
        found.verdict,
    ]
    return "| " + " | ".join(cells) + " |"


def _share(interval: Interval) -> str:
    if interval.mean != interval.mean:
        return "-"
    if interval.low != interval.low:
        return f"{interval.mean:.0%} (no interval)"
    return f"{interval.mean:.0%} [{interval.low:.0%}, {interval.high:.0%}]"
