"""Measure folders of generated images: `python -m train.evaluate --protocol P --images DIR [DIR ...]`.

    python -m train.evaluate list --protocol internal_v1_like --faces FACES --out todo.csv      what to generate
    python -m train.evaluate --protocol todo.csv --images OURS THEIRS --judges dlib insightface --clip-model ViT-L-14 ...

The first writes file names, references, prompts and seeds for any tool to work through; the second scores
what came out, one row per folder: results.json, rows.csv, table.md and report.html in --out. Other commands:
`zero-shot` and `map`. Started by torchrun, ranks share the pictures of a score, and those of `zero-shot`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from tqdm import tqdm

from faceclip import FaceCLIPEncoder
from faceclip.face import DetectorUnavailableError, FaceJudge, load_detector, load_judge
from faceclip.metrics import ClipScorer, FaceTowerJudge, Interval, MetricUnavailableError, load_clip, load_extractor
from faceclip.metrics.distribution import INCEPTION

from ..run.command_line import run_command
from ..run.ranks import Ranks, distributed
from .protocol import EvaluationProtocol, ProtocolError, find_images, listed, load_protocol, other_photos, write_csv
from .report import change_table, markdown, notes, page, table, to_json, write_rows
from .scoring import Candidate, Comparison, FolderScores, Progress, Tools, differences, score

logger = logging.getLogger(__name__)

CLIP = "clip"
EXPECTED = (DetectorUnavailableError, MetricUnavailableError, OSError)
"""What a user can put right, beside a ValueError."""


@dataclass(frozen=True)
class ListCommand:
    """Write the file names, references, prompts and seeds of a protocol, for any tool that generates."""

    protocol: str
    """internal_v1_like, unsplash50, or a .yaml or .csv file."""
    out: Path
    """The .csv file to write; `--protocol` reads it again."""
    faces: Path | None = None
    """Folder of people: NAME.jpg, or folders NAME whose first picture is the reference."""


@dataclass(frozen=True)
class ScoreCommand:
    """Score folders of images on one protocol. The other commands: `list`, `zero-shot`, `map`, each with --help."""

    protocol: str
    """internal_v1_like, unsplash50, or a .yaml or .csv file."""
    images: tuple[Path, ...]
    """One or more folders, each with the protocol's file names (any picture format)."""
    out: Path = Path("evaluation")
    """Folder for results.json, rows.csv, table.md and report.html."""
    names: tuple[str, ...] = ()
    """What to call the folders; by default their own names."""
    conditioned_by: tuple[str, ...] = ()
    """For each folder the face network that conditioned it: `faceclip`,
    `insightface`, `insightface antelopev2`, `none`, ..."""
    faces: Path | None = None
    """Folder of people; for a .csv the folder that its references are below."""
    judges: tuple[Literal["auto", "dlib", "insightface", "faceclip"], ...] = ("auto",)
    """Who measures face similarity; give none (`--judges`) to leave it out.
    `auto`: ArcFace of InsightFace's pack where both are installed, else dlib."""
    other_photos: Path | None = None
    """Folder with a folder for each person of further photographs: measures copy-paste (the reference is left out)."""
    pack: str = "buffalo_l"
    """InsightFace's model pack."""
    encoder: Path | None = None
    """A FaceCLIP encoder's file, for the judge `faceclip`."""
    clip_model: str = ""
    """For CLIP-T and CLIP-I: a model of open_clip, such as ViT-L-14, or a .json of its shape."""
    clip_weights: str = ""
    """Its checkpoint's file, or a tag that open_clip downloads, such as openai."""
    real: Path | None = None
    """Folder of real pictures, for FID and KID."""
    fid_features: str = INCEPTION
    """Features registered with torch-fidelity, or `clip` for the CLIP model's."""
    fid_weights: str = ""
    """The extractor's weights; without, torch-fidelity downloads them."""
    fid_images: int = 0
    """N, images of each side; 0 takes the most that every side has."""
    kid_subset: int = 1000
    """Images in each of KID's 100 subsets."""
    level: float = 0.95
    """Of the intervals."""
    seed: int = 0
    """Of the bootstrap, and of the draws for FID and KID."""
    partial: bool = False
    """Score the rows that every folder has, instead of stopping at a missing image."""
    pictures: int = 48
    """Rows shown in the report, spread over the people."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0 when finished, 1 for an error that it explains."""
    return run_command(lambda: _run(list(sys.argv[1:] if argv is None else argv)), *EXPECTED)


def _run(words: list[str]) -> None:
    from .encoders import MapCommand, ZeroShotCommand, identity_map, zero_shot

    commands: dict[str, tuple[Any, Any]] = {
        "list": (ListCommand, write_list),
        "zero-shot": (ZeroShotCommand, zero_shot),
        "map": (MapCommand, identity_map),
    }
    name = words[0] if words and words[0] in commands else ""
    options, work = commands.get(name, (ScoreCommand, evaluate))
    program = f"python -m train.evaluate {name}".strip()
    command = tyro.cli(options, args=words[1:] if name else words, prog=program)
    with distributed() as ranks:
        if ranks.world_size > 1 and name in ("list", "map"):
            raise ProtocolError(f"`{name}` works in one process, found {ranks.world_size}: start it without torchrun.")
        work(command, ranks)


def write_list(command: ListCommand, ranks: Ranks) -> None:
    """Write a protocol's rows as a CSV. Raises ProtocolError."""
    if command.out.suffix != ".csv":
        raise ProtocolError(f"{command.out} is not the name of a .csv file.")
    protocol = load_protocol(command.protocol, command.faces)
    write_csv(protocol, command.out)
    print(f"{len(protocol.rows):,} images of {len(protocol.people)} people to generate: {command.out}")


def evaluate(command: ScoreCommand, ranks: Ranks) -> list[FolderScores]:
    """Score everything on all ranks, and write it on the first. Raises one of EXPECTED for what cannot be used."""
    protocol = load_protocol(command.protocol, command.faces)
    candidates = _candidates(command)
    protocol, images = _images(protocol, candidates, command.partial)
    with _Bars() as bars:
        tools = replace(_tools(command, bars if ranks.is_main else _no_bar), ranks=ranks)
        if command.other_photos:
            tools = replace(tools, other_photos=other_photos(protocol, command.other_photos))
        scores = score(protocol, candidates, images, tools)
    changes = [differences(scores[0], other, protocol.rows, tools) for other in scores[1:]]
    if ranks.is_main:
        _write(command, protocol, scores, changes)
    return scores


def _candidates(command: ScoreCommand) -> list[Candidate]:
    for what, given in (("--names", command.names), ("--conditioned-by", command.conditioned_by)):
        if given and len(given) != len(command.images):
            raise ProtocolError(
                f"{what} gives {len(given)} for {len(command.images)} folders; give one for each, in their order."
            )
    names = command.names or tuple(folder.resolve().name for folder in command.images)
    if not names or len(set(names)) < len(names):
        raise ProtocolError(f"The folders need names that differ, found {', '.join(names) or 'none'}: give them with --names.")
    networks = command.conditioned_by or ("",) * len(names)
    return [Candidate(*parts) for parts in zip(names, command.images, networks, strict=True)]


def _images(
    protocol: EvaluationProtocol, candidates: Sequence[Candidate], partial: bool
) -> tuple[EvaluationProtocol, list[list[Path]]]:
    """The protocol and each folder's images, without the rows that a folder lacks where that is allowed."""
    found = [find_images(protocol, candidate.folder) for candidate in candidates]
    complete = [index for index in range(len(protocol.rows)) if all(paths[index] for paths in found)]
    if len(complete) < len(protocol.rows) and not partial:
        faults = []
        for candidate, paths in zip(candidates, found, strict=True):
            missing = [row.image for row, path in zip(protocol.rows, paths, strict=True) if path is None]
            faults += [f"{candidate.folder} lacks {len(missing)} of {len(paths)} images: {listed(missing)}"] if missing else []
        raise ProtocolError(". ".join(faults) + ". Generate them, or score what every folder has with --partial.")
    if not complete:
        raise ProtocolError("The folders have no image in common, so there is nothing to compare.")
    if len(complete) < len(protocol.rows):
        logger.warning("Only the %d of %d rows that every folder has are scored", len(complete), len(protocol.rows))
    kept = replace(protocol, rows=tuple(protocol.rows[index] for index in complete))
    return kept, [[path for index in complete if (path := paths[index])] for paths in found]


def _tools(command: ScoreCommand, bars: Progress) -> Tools:
    clip = None
    if command.clip_model:
        clip = load_clip(command.clip_model, command.clip_weights, command.device)
    comparison = _comparison(command, clip) if command.real else None
    judges = [_judge(name, command) for name in command.judges]
    if not (judges or clip or comparison):
        raise ProtocolError("Nothing was asked for: name --judges, --clip-model or --real.")
    return Tools(judges, clip, comparison, command.level, command.seed, bars)


def _comparison(command: ScoreCommand, clip: ClipScorer | None) -> Comparison:
    assert command.real is not None
    if command.fid_features != CLIP:
        extractor = load_extractor(command.fid_features, command.fid_weights, command.device)
        return Comparison(command.real, extractor, command.fid_features, command.fid_images, command.kid_subset)
    if clip is None:
        raise ProtocolError("--fid-features clip takes the features of a CLIP model: name it with --clip-model.")
    return Comparison(command.real, clip, clip.name, command.fid_images, command.kid_subset)


def _judge(name: Literal["auto", "dlib", "insightface", "faceclip"], command: ScoreCommand) -> FaceJudge:
    if name != "faceclip":
        return load_judge(name, pack=command.pack, device=command.device)
    if command.encoder is None:
        raise ProtocolError("The judge faceclip is an encoder's face tower: name its file with --encoder.")
    return FaceTowerJudge(FaceCLIPEncoder.from_file(command.encoder, command.device).eval(), load_detector(pack=command.pack))


def _write(
    command: ScoreCommand, protocol: EvaluationProtocol, scores: Sequence[FolderScores], changes: Sequence[Mapping[str, Interval]]
) -> None:
    out = command.out
    out.mkdir(parents=True, exist_ok=True)
    settings = {
        "level": command.level,
        "seed": command.seed,
        "kid_subset": command.kid_subset if command.real else None,
        "real": str(command.real) if command.real else None,
    }
    tables = [markdown(*table(scores))]
    if changes and changes[0]:
        tables.append(markdown(*change_table(scores, changes)))
    text = "\n\n".join([*tables, *notes(protocol, scores)]) + "\n"
    (out / "results.json").write_text(to_json(protocol, scores, changes, settings), encoding="utf-8")
    write_rows(protocol, scores, out / "rows.csv")
    (out / "table.md").write_text(text, encoding="utf-8")
    (out / "report.html").write_text(page(protocol, scores, changes, command.pictures), encoding="utf-8")
    print(f"{text}\nReport: {out / 'report.html'}, {out / 'results.json'}")


def _no_bar(what: str, done: int, total: int) -> None:
    """The progress of a rank that is not the first."""


class _Bars:
    """One progress bar after the other."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._what = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self._close()
            self._bar, self._what = tqdm(desc=what, total=total, unit=" images"), what
        self._bar.update(done - self._bar.n)

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
