"""Scores written down: results.json, rows.csv, a Markdown table, and one HTML file with pictures."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from faceclip.face import load_photo
from faceclip.metrics import Interval

from .protocol import EvaluationProtocol
from .scoring import FolderScores

THUMBNAIL = 192
_FEW = 10
_CONDITIONING = "conditioning model"
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1200px; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .35rem .7rem; border-bottom: 1px solid #ddd; text-align: left }
td, th:not(:first-child) { text-align: right; font-variant-numeric: tabular-nums }
.wide { overflow-x: auto } .nobr { white-space: nowrap }
.warn { color: #a33 } .small { color: #666; font-size: 13px }
.row { display: flex; gap: .8rem; align-items: flex-start; margin: 1rem 0; border-top: 1px solid #eee; padding-top: .8rem }
figure { margin: 0 } figcaption { font-size: 12px; max-width: 192px; color: #444 } img { border-radius: 4px; display: block }
"""


def to_json(
    protocol: EvaluationProtocol,
    scores: Sequence[FolderScores],
    changes: Sequence[Mapping[str, Interval]],
    settings: Mapping[str, Any],
) -> str:
    """Everything measured, as JSON; what is not known is null."""
    content = {
        "protocol": {"name": protocol.name, "rows": len(protocol.rows), "people": len(protocol.people)},
        "settings": dict(settings),
        "folders": [
            {
                "name": result.candidate.name,
                "folder": str(result.candidate.folder),
                "conditioned_by": result.candidate.conditioned_by or None,
                "images": len(result.images),
                "clip": result.clip or None,
                "fid_features": result.features or None,
                "face_similarity": [
                    {**asdict(face), "detection_rate": face.detection_rate, "note": _CONDITIONING if face.conditioned else None}
                    for face in result.faces.values()
                ],
                "real_photos_alike": {name: asdict(interval) for name, interval in result.photos_alike.items()},
                "means": {name: asdict(interval) for name, interval in result.means.items()},
                "by_person": _by_person(protocol, result),
                "distribution": asdict(result.distribution) if result.distribution else None,
                "difference_to_first": {name: asdict(interval) for name, interval in change.items()},
            }
            for result, change in zip(scores, [{}, *changes], strict=True)
        ],
    }
    return json.dumps(_without_nan(content), indent=1)


def write_rows(protocol: EvaluationProtocol, scores: Sequence[FolderScores], path: Path) -> None:
    """One line per image: who, what, and each of its numbers; an empty cell where there is none."""
    names = list(dict.fromkeys(name for result in scores for name in result.rows))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["folder", "image", "identity", "prompt", *names])
        for result in scores:
            for index, row in enumerate(protocol.rows):
                values = [result.rows[name][index] if name in result.rows else math.nan for name in names]
                cells = ["" if math.isnan(value) else f"{value:.6f}" for value in values]
                writer.writerow([result.candidate.name, row.image, row.identity, row.prompt, *cells])


def table(scores: Sequence[FolderScores]) -> tuple[list[str], list[list[str]]]:
    """Header and one row per candidate, as text."""
    judges = list(scores[0].faces)
    others = [name for name in scores[0].means if not name.startswith("face ")]
    header = ["images", "conditioned by", "N"]
    for judge in judges:
        header += [f"face similarity, {judge}", "of other people", "right person nearest", "faces found"]
    header += others
    first = scores[0].distribution
    if first:
        header += [f"FID, N = {first.images}", f"KID x 1000, subsets of {first.subset_size}"]
    return header, [_cells(result, judges, others) for result in scores]


def change_table(scores: Sequence[FolderScores], changes: Sequence[Mapping[str, Interval]]) -> tuple[list[str], list[list[str]]]:
    """What each candidate after the first changes against it; `changes` has one entry for each of these."""
    header = ["against " + scores[0].candidate.name, *changes[0]]
    rows = [[r.candidate.name, *map(with_interval, change.values())] for r, change in zip(scores[1:], changes, strict=True)]
    return header, rows


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def notes(protocol: EvaluationProtocol, scores: Sequence[FolderScores]) -> list[str]:
    """What a reader of the numbers has to know."""
    interval = next(iter(scores[0].means.values()), None)
    groups = "people" if protocol.people else "prompts"
    remarks = []
    if interval:
        remarks.append(
            f"In brackets: {interval.level:.0%} intervals, by bootstrap over {interval.clusters} {groups}, each with all its "
            "images: images of one person, or of one prompt where no person is asked for, are not independent."
        )
        if interval.clusters < _FEW:
            remarks.append(f"{interval.clusters} {groups} are too few for an interval to be trusted; bring {_FEW} or more.")
    if scores[0].faces:
        remarks.append(
            "Face similarity is the cosine of the most similar face with the reference, over images in which a face was found; "
            "images without one are in 'faces found' only. Cosines of different judges do not compare: read each beside 'of "
            "other people'."
        )
    if scores[0].photos_alike:
        real = "; ".join(f"{judge} {with_interval(alike)}" for judge, alike in scores[0].photos_alike.items())
        remarks.append(
            "Copy-paste: by how much an image's face is nearer to the very reference photograph than to other photographs of "
            "the person, in parts of the angle between those: 1 is a copy, 0 neither, below 0 nearer to the others (M_CP of "
            "arXiv 2510.14975). 'Other photos' is the cosine with these, which copying cannot raise. Two real photographs of "
            f"one person are this much alike: {real}."
        )
    if any(face.conditioned for result in scores for face in result.faces.values()):
        remarks.append(f"'{_CONDITIONING}': this judge conditioned the images, so its similarity does not show likeness.")
    if any(not result.candidate.conditioned_by for result in scores) and scores[0].faces:
        remarks.append("'not stated': nobody said which face network conditioned the images, so the judge may be that one.")
    if scores[0].clip:
        remarks.append(f"CLIP-T and CLIP-I: cosines by {scores[0].clip}; those of another CLIP do not compare.")
    found = scores[0].distribution
    if found:
        remarks.append(
            f"FID and KID: {found.images} images against {found.real} real ones, {scores[0].features} features of width "
            f"{found.dimensions}. Compare only at the same N."
        )
        if found.images < found.dimensions:
            remarks.append(f"N is below {found.dimensions}: the FID is biased upwards; look at the KID.")
    return remarks


def page(
    protocol: EvaluationProtocol, scores: Sequence[FolderScores], changes: Sequence[Mapping[str, Interval]], pictures: int
) -> str:
    """The HTML report, in one file: tables, what they mean, and `pictures`
    rows of the protocol spread over its people."""
    parts = [f"<h1>{html.escape(protocol.name)}</h1>", _html_table(*table(scores))]
    if changes and changes[0]:
        parts.append(_html_table(*change_table(scores, changes)))
    parts += [f"<p class=small>{html.escape(text)}</p>" for text in notes(protocol, scores)]
    number = min(pictures, len(protocol.rows))
    chosen = np.unique(np.linspace(0, len(protocol.rows) - 1, number).round().astype(int)) if number else []
    parts.append(f"<h2>{len(chosen)} of {len(protocol.rows)} rows</h2>")
    parts += [_html_row(protocol, scores, int(index)) for index in chosen]
    title = html.escape(protocol.name)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style><body>'
        + "\n".join(parts)
        + "</body></html>"
    )


def with_interval(interval: Interval) -> str:
    """`0.512 [0.480, 0.541]`."""
    if math.isnan(interval.mean):
        return "-"
    if math.isnan(interval.low):
        return f"{interval.mean:.3f} (no interval: one person)"
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _cells(result: FolderScores, judges: Sequence[str], others: Sequence[str]) -> list[str]:
    cells = [result.candidate.name, result.candidate.conditioned_by or "not stated", str(len(result.images))]
    for judge in judges:
        face = result.faces[judge]
        similarity = with_interval(face.similarity) + (f" ({_CONDITIONING})" if face.conditioned else "")
        cells += [similarity, with_interval(face.others), _share(face.identified)]
        cells.append(f"{_share(face.detection_rate)} ({face.with_face} of {face.images})")
    cells += [with_interval(result.means[name]) for name in others]
    found = result.distribution
    if found:
        # Rounded before they are written: a distance of 0 may be -1e-12, and "-0.00" looks like a fault.
        fid, kid = round(found.fid, 2) + 0.0, round(found.kid * 1000, 2) + 0.0
        cells += [f"{fid:.2f}", f"{kid:.2f} (std {found.kid_std * 1000:.2f})"]
    return cells


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1%}"


def _by_person(protocol: EvaluationProtocol, result: FolderScores) -> dict[str, dict[str, float]]:
    people = np.array([row.identity for row in protocol.rows])
    found: dict[str, dict[str, float]] = {}
    for person in protocol.people:
        rows = {name: values[people == person] for name, values in result.rows.items()}
        found[person] = {name: float(np.nanmean(v)) if (~np.isnan(v)).any() else math.nan for name, v in rows.items()}
    return found


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    lines = []
    for cells in rows:
        marked = [f'<td class="{"warn" if _CONDITIONING in cell else ""}">{_broken(cell)}</td>' for cell in cells[1:]]
        lines.append(f"<tr><th>{html.escape(cells[0])}</th>{''.join(marked)}</tr>")
    return f"<div class=wide><table><tr>{head}</tr>{''.join(lines)}</table></div>"


def _broken(cell: str) -> str:
    """A cell's number, and what is in brackets after it on lines of its own."""
    parts = html.escape(cell).replace(" [", "\n[").replace(" (", "\n(").split("\n")
    return "<br>".join(f"<span class=nobr>{part}</span>" for part in parts)


def _html_row(protocol: EvaluationProtocol, scores: Sequence[FolderScores], index: int) -> str:
    row = protocol.rows[index]
    figures = [_figure(row.reference, f"reference: {row.identity}")] if row.reference else []
    for result in scores:
        values = {name: values[index] for name, values in result.rows.items()}
        scored = ", ".join(f"{name} {'no face' if math.isnan(v) else f'{v:.3f}'}" for name, v in values.items())
        figures.append(_figure(result.images[index], f"{result.candidate.name}: {scored}"))
    return f"<p class=small>{html.escape(row.image)}: {html.escape(row.prompt)}</p><div class=row>{''.join(figures)}</div>"


def _figure(path: Path, caption: str) -> str:
    picture = Image.fromarray(load_photo(path))
    picture.thumbnail((THUMBNAIL, THUMBNAIL * 2))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    data = base64.b64encode(buffer.getvalue()).decode()
    width, height = picture.size
    caption = html.escape(caption)
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" width={width} height={height} alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
