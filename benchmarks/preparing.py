"""How many photographs a core prepares a second: read, look for faces, align, measure, write into a shard.

    OMP_NUM_THREADS=1 python benchmarks/preparing.py --photos 32 --sides 768 1536 3072

CPU time of this process, so that what else the machine does counts little; without the start, in which the
detector is loaded. The photographs are cuts of one of an astronaut, with detail of their own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.data import astronaut
from training_common import table

from train.prepare.report import Report
from train.prepare.sources import Columns, find_units
from train.prepare.unit import DetectorChoice, Options, Work, preparer

CAPTION = "an astronaut in an orange suit before a flag"


def write_photographs(folder: Path, count: int, side: int) -> None:
    random = np.random.default_rng(0)
    whole = Image.fromarray(astronaut())
    for number in range(count):
        left, top = (int(value) for value in random.integers(0, 100, 2))
        photo = whole.crop((left, top // 4, left + 400, top // 4 + 400)).resize((side, side), Image.Resampling.BICUBIC)
        noisy = np.asarray(photo, dtype=np.int16) + random.integers(-4, 5, (side, side, 3), dtype=np.int16)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number:04d}.jpg", quality=92)
        (folder / f"{number:04d}.txt").write_text(CAPTION)


def seconds_a_photo(options: Options, count: int, side: int) -> tuple[float, int]:
    """CPU seconds a photograph, and how many were kept."""
    with tempfile.TemporaryDirectory() as place:
        photos = Path(place, "photos")
        photos.mkdir()
        write_photographs(photos, count, side)
        preparer(options)
        work = Work(f"{place}/out", options)
        kept = 0
        begun = time.process_time()
        for job in enumerate(find_units(str(photos), count, Columns())):
            _, report = work(job)
            kept += Report.from_json(report).kept
        return (time.process_time() - begun) / count, kept


def main(argv: Sequence[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description="How many photographs a core prepares a second.")
    parser.add_argument("--photos", type=int, default=32)
    parser.add_argument("--sides", type=int, nargs="+", default=[768, 1536, 3072], help="of the photographs, in pixels")
    parser.add_argument("--detector", default="yunet")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    options = Options(face_detector=DetectorChoice(detector=given.detector))
    rows = []
    for side in given.sides:
        seconds, kept = seconds_a_photo(options, given.photos, side)
        rows.append((f"{side} x {side} px", f"{kept} of {given.photos}", f"{seconds:.3f}", f"{1 / seconds:.1f}"))
    head = ("photographs", "kept", "CPU seconds each", "a second and core")
    text = table(f"Preparing with {given.detector}, on one thread.", head, rows)
    print(text)
    return text


if __name__ == "__main__":
    main(sys.argv[1:])
