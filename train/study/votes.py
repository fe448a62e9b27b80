"""The blind study's pairs, votes and result: who saw what in which
order, what they chose, and how sure a preference is."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from faceclip.metrics import Interval, cluster_bootstrap, wilson

from ..evaluate.protocol import ProtocolError, list_pictures, listed, load_protocol

Side = Literal["A", "B"]
Choice = Literal["A", "B", "same"]

QUESTIONS = {
    "identity": "Which looks more like the person of the reference?",
    "text": "Which follows the prompt better?",
    "quality": "Which is the better picture?",
}
"""What is asked of each pair: the first where there is a reference, the
second where there is a prompt, the third always."""


@dataclass(frozen=True)
class Pair:
    """Two pictures of one name, and what they should show."""

    name: str
    a: Path
    b: Path
    prompt: str = ""
    reference: Path | None = None

    @property
    def questions(self) -> list[str]:
        """The keys of QUESTIONS that make sense here."""
        known = {"identity": self.reference is not None, "text": bool(self.prompt), "quality": True}
        return [question for question in QUESTIONS if known[question]]


@dataclass(frozen=True)
class Vote:
    """One voter's answer to one question about one pair."""

    time: str
    voter: str
    pair: str
    question: str
    left: Side
    """Which folder was shown on the left."""
    choice: Choice
    study: str = ""
    """The fingerprint of the two folders; empty in files of earlier versions."""


COLUMNS = tuple(field.name for field in fields(Vote))
LONGEST_NAME = 100
_FINGERPRINT = 16 + 1 + 16
_FORMULA = ("=", "+", "-", "@")  # what a spreadsheet takes for a formula, if a cell begins so


def voter_name(text: str) -> str:
    """A voter's name as it is kept: in one line, without signs that are no letters.

    Raises ValueError where none is left.
    """
    name = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    if not name:
        raise ValueError("Please enter a name first; any will do, and the same one lets you go on later.")
    if len(name) > LONGEST_NAME:
        raise ValueError(f"Please enter a shorter name: {LONGEST_NAME} letters at most.")
    return name


def fingerprint(pairs: Sequence[Pair]) -> str:
    """Of the pictures in both folders, the first folder's before the
    second's: other or changed pictures have another."""
    sides = []
    for side in ("a", "b"):
        digest = hashlib.sha256()
        for pair in pairs:
            digest.update(f"{pair.name}\n".encode(errors="surrogateescape"))
            digest.update(hashlib.sha256(getattr(pair, side).read_bytes()).digest())
        sides.append(digest.hexdigest()[:16])
    return "-".join(sides)


def require_study(path: Path, votes: Sequence[Vote], study: str) -> None:
    """Raise ProtocolError unless all votes are about the folders with this fingerprint, or do not say."""
    others = {vote.study for vote in votes} - {"", study}
    if not others:
        return
    first, second = study.split("-")
    if f"{second}-{first}" in others:
        raise ProtocolError(f"The votes in {path} are about these folders in the other order: A was B. Exchange the two.")
    count = sum(vote.study in others for vote in votes)
    raise ProtocolError(
        f"{count} of the {len(votes)} votes in {path} are about other pictures than those in the two folders: of another study, "
        "or the pictures have been changed since. Name that study's folders, or another file with --votes."
    )


def find_pairs(a: Path, b: Path, table: str = "", faces: Path | None = None) -> list[Pair]:
    """Pictures of the same name (any format) in two folders, with prompt and
    reference from a CSV or protocol if there is one.

    Raises:
        ProtocolError: a folder is missing or empty, names that only one of them has, or a table that lacks one.
    """
    found = [_by_name(folder) for folder in (a, b)]
    for folder, pictures in zip((a, b), found, strict=True):
        if not pictures:
            raise ProtocolError(f"{folder} has no picture in it.")
    alone = [sorted(found[i].keys() - found[1 - i].keys()) for i in range(2)]
    if any(alone):
        differences = [f"only {folder} has {listed(names)}" for folder, names in zip((a, b), alone, strict=True) if names]
        raise ProtocolError(f"The two folders must have the same file names: {'; '.join(differences)}.")
    rows = {}
    if table:
        rows = {str(Path(row.image).with_suffix("").as_posix()): row for row in load_protocol(table, faces).rows}
        missing = sorted(found[0].keys() - rows.keys())
        if missing:
            raise ProtocolError(f"{table} has no row for {listed(missing)}.")
    pairs = []
    for name in sorted(found[0]):
        row = rows.get(name)
        pairs.append(Pair(name, found[0][name], found[1][name], row.prompt if row else "", row.reference if row else None))
    return pairs


def _by_name(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in list_pictures(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise ProtocolError(f"{folder} has two pictures called {name}: {found[name].name} and {path.name}. Keep one.")
        found[name] = path
    return found


def order_for(voter: str, pairs: Sequence[Pair]) -> list[tuple[Pair, Side]]:
    """The pairs in the voter's own order, each with the folder shown on the left.

    The same voter gets the same again.
    """
    seed = int.from_bytes(hashlib.sha256(voter.encode()).digest()[:8], "big")
    random = np.random.default_rng(seed)
    order = random.permutation(len(pairs))
    # Half of the pairs on each side, so that a voter who prefers the left favours neither folder.
    sides = random.permutation([index % 2 for index in range(len(pairs))])
    return [(pairs[index], "B" if side else "A") for index, side in zip(order, sides, strict=True)]


class VoteFile:
    """Votes in a CSV that is only ever appended to, one line at once, on the disk before the next pair is shown.

    A line cut short by a crash is cut off when the file is opened again.

    Raises:
        ProtocolError: the file is there and holds something else.
    """

    def __init__(self, path: Path, study: str = ""):
        """`study`: the fingerprint of the folders that votes are about."""
        self.path, self.study = path, study
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.stat().st_size == 0:
            self._append(",".join(COLUMNS) + "\n")
            return
        votes = read_votes(path)
        if study:
            require_study(path, votes, study)
        content = path.read_bytes()
        whole = _whole_lines(content)
        if whole.partition(b"\n")[0].decode() != ",".join(COLUMNS):  # of an earlier version: it is made anew, in one go
            whole = _as_csv(votes, heading=True)
        if whole != content:
            part = path.with_name(f"{path.name}.part")
            part.write_bytes(whole)
            part.replace(path)

    def add(self, votes: Sequence[Vote]) -> None:
        """Write the votes of one pair, all or (after a crash) not one half of a line."""
        self._append(_as_csv([replace(vote, study=vote.study or self.study) for vote in votes]).decode())

    def done(self, voter: str) -> set[tuple[str, str]]:
        """The (pair, question) that this voter has answered."""
        with self._lock:
            return {(vote.pair, vote.question) for vote in read_votes(self.path) if vote.voter == voter}

    def _append(self, text: str) -> None:
        with self._lock, self.path.open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())


def now() -> str:
    """The time for a vote, UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def read_votes(path: Path) -> list[Vote]:
    """All whole lines. A voter who answered one question twice keeps the last answer.

    Raises:
        ProtocolError: no such file, or it holds no votes of this study.
    """
    if not path.is_file():
        raise ProtocolError(f"There are no votes at {path}.")
    text = _whole_lines(path.read_bytes()).decode("utf-8", errors="replace")
    reader = csv.DictReader(io.StringIO(text, newline=""))
    votes: dict[tuple[str, str, str], Vote] = {}
    try:
        if tuple(reader.fieldnames or ()) not in (COLUMNS, COLUMNS[:-1]):
            raise ProtocolError(f"{path} holds no votes: its first line should be {','.join(COLUMNS)}. Choose another file.")
        for record in reader:
            if record.get("left") not in get_args(Side) or record.get("choice") not in get_args(Choice):
                raise ProtocolError(f"{path}, line {reader.line_num}, is not a vote: {str(record)[:300]}.")
            known = {name: _without_guard(record[name] or "") for name in reader.fieldnames or ()}
            vote = Vote(**known)  # type: ignore[arg-type]
            votes[vote.voter, vote.pair, vote.question] = vote
    except csv.Error as error:
        raise ProtocolError(f"{path}, line {reader.line_num + 1}, is not a vote ({error}). Take that line out.") from error
    return list(votes.values())


def _whole_lines(content: bytes) -> bytes:
    """The lines without one that a crash cut short. A last vote that only lacks its line end is whole."""
    whole = content[: content.rfind(b"\n") + 1]
    last = content[len(whole) :].rstrip(b"\r").decode("utf-8", errors="replace")
    cells = next(csv.reader([last]), []) if len(last) < 100_000 else []
    if len(cells) == len(COLUMNS) and cells[-2] in get_args(Choice) and len(cells[-1]) in (0, _FINGERPRINT):
        return content[: len(whole)] + last.encode() + b"\n"
    return whole


def _as_csv(votes: Sequence[Vote], heading: bool = False) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    if heading:
        writer.writeheader()
    writer.writerows({name: _with_guard(value) for name, value in asdict(vote).items()} for vote in votes)
    return text.getvalue().encode()


def _with_guard(cell: str) -> str:
    return f"'{cell}" if cell.lstrip("'").startswith(_FORMULA) else cell


def _without_guard(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(_FORMULA) else cell


@dataclass(frozen=True)
class Preference:
    """How often one folder was preferred, over the votes that preferred any."""

    question: str
    a: int
    b: int
    same: int
    left: int
    """Of the votes for either, those for the picture on the left: far from half, voters clicked rather than looked."""
    independent: Interval
    """Share of A, as if every vote were independent of every other (Wilson): the narrowest that can be claimed."""
    over_pairs: Interval
    """Share of A by bootstrap over pairs: would other pictures say the same?"""
    over_voters: Interval
    """Share of A by bootstrap over voters: would other people say the same?"""

    @property
    def verdict(self) -> str:
        """`A`, `B` or `no difference`: the interval that is widest must leave out one half."""
        known = [i for i in (self.independent, self.over_pairs, self.over_voters) if i.low == i.low]
        if known and all(interval.low > 0.5 for interval in known):
            return "A"
        if known and all(interval.high < 0.5 for interval in known):
            return "B"
        return "no difference"


def preferences(votes: Sequence[Vote], level: float = 0.95, seed: int = 0) -> list[Preference]:
    """The result of a study, one entry per question that was answered.

    Votes for neither are counted and left out of the shares.
    """
    results = []
    for question in QUESTIONS:
        asked = [vote for vote in votes if vote.question == question]
        if not asked:
            continue
        count = Counter(vote.choice for vote in asked)
        decided = [vote for vote in asked if vote.choice != "same"]
        share = [float(vote.choice == "A") for vote in decided]
        results.append(
            Preference(
                question=question,
                a=count["A"],
                b=count["B"],
                same=count["same"],
                left=sum(vote.choice == vote.left for vote in decided),
                independent=wilson(count["A"], len(decided), level),
                over_pairs=cluster_bootstrap(share, [vote.pair for vote in decided], level=level, seed=seed),
                over_voters=cluster_bootstrap(share, [vote.voter for vote in decided], level=level, seed=seed),
            )
        )
    return results
