"""How many faces each detector finds, what it takes for one, how long it
takes, and what becomes of turned photos.

    python benchmarks/detection.py [--backend yunet dlib] [--sheet SHEET.png]     # the table, on the set `report`
    python benchmarks/detection.py --choose                        # the pack's own detector, on the set `choose`

The pictures are what installed packages ship, and others made of them: see `detection_pictures.py`. A face
counts as found if a find of confidence 0.5 or more has its middle within half a face of where it is; any find
that is on no labelled face is false. Times are CPU milliseconds of all threads, the best of --repeat.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detection_pictures import TURNS, Picture, SetName, pictures
from PIL import Image

from faceclip.face import DetectorUnavailableError, Face, FaceDetector, align_face, detect_faces, load_detector
from faceclip.face.preview import draw_faces

BACKENDS = ("yunet", "insightface", "dlib")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure face detectors on pictures that installed packages ship.")
    parser.add_argument("--backend", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--choose", action="store_true", help="how many faces the pack's own detector finds by confidence")
    parser.add_argument("--repeat", type=int, default=1, help="times are the best of so many")
    parser.add_argument("--kind", nargs="+", help="such pictures only: photo, turned, blurred, ...")
    parser.add_argument(
        "--every",
        type=int,
        default=1,
        help="take every so manieth picture only, and what its turned ones were made of: dlib is slow",
    )
    parser.add_argument("--sheet", type=Path, help="a PNG of the first backend's crops, and of what it got wrong")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    which: SetName = "choose" if options.choose else "report"
    every = pictures(which)
    chosen = [picture for picture in every if not options.kind or picture.kind in options.kind][:: options.every]
    sources = {picture.source for picture in chosen if picture.turned} - {picture.name for picture in chosen}
    chosen += [picture for picture in every if picture.name in sources]
    kinds = ", ".join(f"{sum(p.kind == kind for p in chosen)} {kind}" for kind in dict.fromkeys(p.kind for p in chosen))
    print(f"{len(chosen)} pictures ({kinds}) with {sum(len(p.faces) for p in chosen)} faces.")
    if options.choose:
        return choose(load_detector("yunet"), chosen)
    turns = " / ".join(map(str, TURNS))
    print(f"| detector | found | false | CPU ms with faces: median / p90 / max | without | {turns} degrees: median (worst) |")
    print("|---|---|---|---|---|---|")
    for backend in options.backend:
        try:
            detector = load_detector(backend)
        except DetectorUnavailableError as error:
            print(f"| {backend} | not installed: {str(error)[:60]} | | | | |")
            continue
        found = [look(detector, picture, options.repeat) for picture in chosen]
        print(row(backend, chosen, found))
        if options.sheet and backend == options.backend[0]:
            sheet(chosen, [faces for faces, _ in found], options.sheet)
    return None


def look(detector: FaceDetector, picture: Picture, repeat: int = 1) -> tuple[list[Face], float]:
    """The faces found, and the CPU seconds it took: the detector looks again
    until it has found as many as there are."""
    best = np.inf
    for _ in range(repeat):
        start = time.process_time()
        faces = detect_faces(detector, picture.image, at_least=max(1, len(picture.faces)))
        best = min(best, time.process_time() - start)
    return faces, float(best)


def judged(picture: Picture, faces: Sequence[Face]) -> tuple[dict[int, Face], list[Face]]:
    """Which of the picture's faces were found, and what is none."""
    found: dict[int, Face] = {}
    false = []
    for face in faces:
        places = [i for i, at in enumerate(picture.faces) if _is_at(face, at)]
        if places:
            found.setdefault(places[0], face)
        elif not any(_is_at(face, at) for at in picture.optional):
            false.append(face)
    return found, false


def _is_at(face: Face, at: tuple[float, float, float]) -> bool:
    return bool(np.hypot(face.centre[0] - at[0], face.centre[1] - at[1]) < at[2] / 2)


def row(name: str, chosen: Sequence[Picture], looks: Sequence[tuple[list[Face], float]]) -> str:
    """The table's line for one detector."""
    results = [judged(picture, faces) for picture, (faces, _) in zip(chosen, looks, strict=True)]
    total, found = sum(len(p.faces) for p in chosen), sum(len(hits) for hits, _ in results)
    upright = {p.name: roll_of(hits[0]) for p, (hits, _) in zip(chosen, results, strict=True) if p.kind == "photo" and 0 in hits}
    errors: dict[int, list[float]] = defaultdict(list)
    for picture, (hits, _) in zip(chosen, results, strict=True):
        if picture.turned and picture.source in upright and 0 in hits:
            off = roll_of(hits[0]) + picture.turned - upright[picture.source]
            errors[picture.turned].append((off + 180) % 360 - 180)
    made = {turn: sum(p.turned == turn for p in chosen) for turn in TURNS}
    turned = " / ".join(
        f"{np.median(off):+.0f} ({max(off, key=abs):+.0f}; {len(off)} of {made[turn]})"
        if (off := errors[turn])
        else "not found"
        if made[turn]
        else "no pictures"
        for turn in TURNS
    )
    missed = defaultdict(int)
    for picture, (hits, _) in zip(chosen, results, strict=True):
        missed[picture.kind] += len(picture.faces) - len(hits)
    where = ", ".join(f"{count} {kind}" for kind, count in missed.items() if count)
    times = []
    for some in (True, False):
        milliseconds = [1000 * seconds for p, (_, seconds) in zip(chosen, looks, strict=True) if bool(p.faces) == some]
        shares = (f"{np.percentile(milliseconds, share):.0f}" for share in (50, 90, 100)) if milliseconds else ("no pictures",)
        times.append(" / ".join(shares))
    false = sum(len(wrong) for _, wrong in results)
    return f"| {name} | {found} of {total}{f' (missed: {where})' if where else ''} | {false} | {' | '.join(times)} | {turned} |"


def roll_of(face: Face) -> float:
    """Degrees by which the face is tipped clockwise, from its crop: what aligning it undoes."""
    matrix = align_face(np.zeros((8, 8, 3), np.uint8), face).matrix
    return float(-np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0])))


def choose(detector: FaceDetector, chosen: Sequence[Picture]) -> None:
    """How many faces are found and how many false, by the least confidence.

    Pictures without faces also turned and mirrored.
    """
    true, false = [], []
    for picture in chosen:
        views = [picture.image]
        if not picture.faces and not picture.optional:
            turned = [np.rot90(picture.image, turn) for turn in range(4)]
            views = [np.ascontiguousarray(view) for image in turned for view in (image, image[:, ::-1])]
        best: dict[int, float] = {}
        for view in views:
            for faces in detector.passes(view):
                hits, wrong = judged(picture, faces)
                false += [face.confidence for face in wrong]
                best |= {i: max(best.get(i, 0.0), face.confidence) for i, face in hits.items()}
        true += [best.get(i, 0.0) for i in range(len(picture.faces))]
    print("| confidence | found | false, in all looks at all pictures |\n|---|---|---|")
    for least in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
        print(f"| {least:g} | {sum(c >= least for c in true)} of {len(true)} | {sum(c >= least for c in false)} |")
    print(f"Surest false find: {max(false, default=0):.3f}.")


def sheet(chosen: Sequence[Picture], found: Sequence[Sequence[Face]], path: Path) -> None:
    """Draw crops of every face found, then the pictures with a miss or a false find."""
    side, across = 112, 16
    tiles = [align_face(p.image, face, side).image for p, faces in zip(chosen, found, strict=True) for face in faces]
    wrong = []
    for picture, faces in zip(chosen, found, strict=True):
        hits, false = judged(picture, faces)
        if false or len(hits) < len(picture.faces):
            drawn = Image.fromarray(draw_faces(picture.image, faces, [[] for _ in faces], range(len(faces))))
            wrong.append(drawn.resize((2 * side, max(1, round(2 * side * drawn.height / drawn.width)))))
    rows = -(-len(tiles) // across)
    canvas = Image.new("RGB", (across * side, rows * side + 2 * side * -(-2 * len(wrong) // across)), (40, 40, 40))
    for number, tile in enumerate(tiles):
        pixels = Image.fromarray((tile * 255).round().astype(np.uint8))
        canvas.paste(pixels, (number % across * side, number // across * side))
    for number, picture in enumerate(wrong):
        place = (2 * number % across * side, rows * side + 2 * number // across * 2 * side)
        canvas.paste(picture.crop((0, 0, 2 * side, 2 * side)), place)
    canvas.save(path)
    print(f"{path}: {len(tiles)} crops, then {len(wrong)} pictures with a face missed or a false find.")


if __name__ == "__main__":
    main()
