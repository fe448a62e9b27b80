"""What is to be generated and scored: rows of (image, person, prompt,
seed), from a protocol's YAML file or any CSV.

The same rows serve every method, so that FaceCLIP, InstantID, PuLID, Arc2Face or anything else is scored on
the same prompts and faces. `python -m train.evaluate list` writes them as a CSV for the tool that generates.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.folders import existing, is_hidden, pictures_below
from ..data.tables import TableError, read_table
from ..data.texts import name_of, parse_yaml

BUILT_IN = Path(__file__).parent / "protocols"
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
NEEDED = ("image", "reference", "prompt")
COLUMNS = ("image", "identity", "reference", "prompt", "seed")
_SHOWN = 5


class ProtocolError(ValueError):
    """A protocol, its faces or its images that cannot be used: what is wrong, what was found, and what to do."""


@dataclass(frozen=True)
class Row:
    """One image to generate and score."""

    image: str
    """File name below a folder of images, with forward slashes."""
    identity: str
    """Who is shown; rows of one identity are one cluster of the bootstrap. Empty without a reference."""
    reference: Path | None
    prompt: str
    seed: int | None


@dataclass(frozen=True)
class EvaluationProtocol:
    """All rows, in the order in which they are listed."""

    name: str
    rows: tuple[Row, ...]

    @property
    def people(self) -> dict[str, list[Path]]:
        """The references of each identity, in the order of the rows."""
        found: dict[str, dict[Path, None]] = {}
        for row in self.rows:
            if row.reference is not None:
                found.setdefault(row.identity, {})[row.reference] = None
        return {name: list(paths) for name, paths in found.items()}


def load_protocol(protocol: str, faces: Path | None = None) -> EvaluationProtocol:
    """Read a protocol.

    Args:
        protocol: `internal_v1_like`, `unsplash50`, or the path of a .yaml like theirs or of a .csv or .tsv with the
            columns image, reference, prompt and, where there are, identity and seed.
        faces: for a .yaml the people: NAME.jpg, or folders NAME whose first picture is taken. For a .csv the folder
            that its references are below; by default the CSV's own.

    Raises:
        ProtocolError: it cannot be read, columns or references are missing, or the number of people is another.
    """
    path = Path(protocol) if Path(protocol).suffix else BUILT_IN / f"{protocol}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in BUILT_IN.glob("*.yaml")))
        raise ProtocolError(f"There is no protocol {protocol!r}. Choose one of {known}, or name a .yaml or .csv file.")
    ending = path.suffix.lower()
    if ending in (".csv", ".tsv"):
        return EvaluationProtocol(path.stem, _csv_rows(path, faces))
    if ending not in (".yaml", ".yml"):
        raise ProtocolError(f"{path} is not a protocol: it has to be a .yaml, a .csv or a .tsv file.")
    return _from_yaml(path, faces)


def write_csv(protocol: EvaluationProtocol, path: Path) -> None:
    """Write the rows as a CSV that `load_protocol` reads again. References are absolute paths."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in protocol.rows:
            reference = row.reference.resolve() if row.reference else ""
            writer.writerow([row.image, row.identity, reference, row.prompt, "" if row.seed is None else row.seed])


def find_images(protocol: EvaluationProtocol, folder: Path) -> list[Path | None]:
    """Per row its image below `folder`, None where it is missing. Another picture format than the row's is fine.

    Raises:
        ProtocolError: no such folder, or none of the images is in it.
    """
    if not folder.is_dir():
        raise ProtocolError(f"There is no folder of images at {folder}.")
    files = {path.relative_to(folder).as_posix(): path for path in list_pictures(folder)}
    by_stem = {str(Path(name).with_suffix("")): path for name, path in sorted(files.items())}
    found = [files.get(row.image) or by_stem.get(str(Path(row.image).with_suffix(""))) for row in protocol.rows]
    if not any(found):
        example = next(iter(sorted(files)), "nothing")
        raise ProtocolError(
            f"None of the {len(found)} images of {protocol.name} is in {folder}: the first should be {protocol.rows[0].image}, "
            f"found {len(files)} pictures, such as {example}. `python -m train.evaluate list` writes the names."
        )
    return found


def list_pictures(folder: Path) -> list[Path]:
    """All pictures below `folder`, sorted, but hidden and deleted ones. Raises ProtocolError if it is not there."""
    if not folder.is_dir():
        raise ProtocolError(f"There is no folder of pictures at {folder}.")
    return sorted(folder / name for name in pictures_below(folder) if Path(name).suffix.lower() in PICTURES)


def other_photos(protocol: EvaluationProtocol, folder: Path) -> dict[str, list[Path]]:
    """Further photographs of the protocol's people: those in `folder`/IDENTITY that are no reference of theirs.

    Raises:
        ProtocolError: no such folder, or it shows none of the people.
    """
    if not folder.is_dir():
        raise ProtocolError(f"There is no folder of photographs at {folder}.")
    found = {}
    for person, references in protocol.people.items():
        known = {path.resolve() for path in references}
        photos = list_pictures(folder / person) if (folder / person).is_dir() else []
        found[person] = [path for path in photos if path.resolve() not in known]
    if not any(found.values()):
        folders = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
        raise ProtocolError(
            f"{folder} has no other photograph of any of the {len(found)} people ({listed(list(found))}). It needs a folder "
            f"for each, called as `identity` in the protocol, with photographs beside the reference; found "
            f"{len(folders)} folders: {listed(folders) or 'none'}."
        )
    return found


def listed(names: Sequence[str]) -> str:
    """The first few of many names, for an error."""
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _from_yaml(path: Path, faces: Path | None) -> EvaluationProtocol:
    try:
        content = parse_yaml(path.read_bytes())
        people, seeds = _whole(content["people"]), [_whole(seed) for seed in content["seeds"]]
        themes, name = list(content["prompts"].values()), str(content["name"])
        if not all(isinstance(theme, list) and all(isinstance(text, str | int | float) for text in theme) for theme in themes):
            raise ValueError("the prompts of a theme are not a list of texts")
        prompts = [str(text) for theme in themes for text in theme]
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise ProtocolError(
            f"{path} is not a protocol ({error}). It needs name, people (a number), seeds (a list) and prompts (lists by theme)."
        ) from error
    if not prompts or not seeds:
        raise ProtocolError(f"{path} has {len(prompts)} prompts and {len(seeds)} seeds; it needs one of each at least.")
    if faces is None:
        raise ProtocolError(f"{name} needs the photos of {people} people: name their folder with --faces.")
    references = _people_in(faces)
    if len(references) != people:
        raise ProtocolError(
            f"{name} is made for {people} people, {faces} shows {len(references)}: one picture, or one folder of pictures, each. "
            "Bring as many, or change `people` in a copy of the protocol's file and use that."
        )
    rows = [
        Row(f"{person}/{number:03d}_{seed}.png", person, reference, prompt, seed)
        for person, reference in references.items()
        for number, prompt in enumerate(prompts, 1)
        for seed in seeds
    ]
    return EvaluationProtocol(name, tuple(rows))


def _whole(value: Any) -> int:
    """A number of a YAML file or a table, where 1, "1" and 1.0 are one. Raises ValueError."""
    text = name_of(value) or ""
    if not re.fullmatch(r"-?[0-9]{1,20}", text):
        raise ValueError(f"{str(value)[:40]!r} is not a whole number")
    return int(text)


def _people_in(faces: Path) -> dict[str, Path]:
    if not faces.is_dir():
        raise ProtocolError(f"There is no folder of faces at {faces}.")
    people: dict[str, Path] = {}
    for entry in sorted(entry for entry in faces.iterdir() if not is_hidden(entry.name)):
        pictures = list_pictures(entry) if entry.is_dir() else [entry] if entry.suffix.lower() in PICTURES else []
        name = entry.name if entry.is_dir() else entry.stem
        if pictures and name in people:
            raise ProtocolError(f"{faces} has two entries for {name}: {people[name].name} and {entry.name}. Rename one.")
        if pictures:
            people[name] = pictures[0]
    return people


def _csv_rows(path: Path, faces: Path | None) -> tuple[Row, ...]:
    try:
        names, rows_read = read_table(str(path))
    except TableError as error:
        raise ProtocolError(str(error)) from error
    records = [dict(zip(names, row, strict=False)) for row in rows_read]
    absent = [name for name in NEEDED if name not in names]
    if absent:
        raise ProtocolError(
            f"{path} lacks the column {' and '.join(absent)}; it has {', '.join(names) or 'none'}. Needed are "
            f"{', '.join(NEEDED)} (the last two may be empty); identity and seed are optional."
        )
    if not records:
        raise ProtocolError(f"{path} has no row below its header.")
    root = faces or path.parent
    rows = tuple(_csv_row(path, line, record, root) for line, record in enumerate(records, 1))
    lost = list(dict.fromkeys(str(row.reference) for row in rows if row.reference and not row.reference.is_file()))
    if lost:
        raise ProtocolError(f"{path} names references that are not there: {listed(lost)}. They are looked for below {root}.")
    images = [row.image for row in rows]
    double = sorted({name for name in images if images.count(name) > 1}) if len(set(images)) < len(images) else []
    if double:
        raise ProtocolError(f"{path} has several rows for one image: {listed(double)}. Give each row its own file name.")
    return rows


def _csv_row(path: Path, number: int, record: Mapping[str, str], root: Path) -> Row:
    values = {**dict.fromkeys(COLUMNS, ""), **{name: value.strip() for name, value in record.items()}}
    if not values["image"]:
        raise ProtocolError(f"{path}, row {number}: the image's file name is empty.")
    try:
        seed = _whole(values["seed"]) if values["seed"] else None
    except ValueError as error:
        raise ProtocolError(f"{path}, row {number}: the seed {error}. It has to be one, or empty.") from error
    reference = Path(existing(str(root), values["reference"])) if values["reference"] else None
    identity = (name_of(values["identity"]) or values["reference"]) if reference else ""
    return Row(values["image"].replace("\\", "/"), identity, reference, values["prompt"], seed)
