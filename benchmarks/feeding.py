"""How fast one host core feeds pretraining, against webdataset's loader on the same shards and for the same
batches.

    python benchmarks/feeding.py                    384 rows a batch: a rank's share of FaceCLIP-L on 64 GPUs
    python benchmarks/feeding.py --processes 2      rows are read and decoded by processes beside

Every contender gives batches of `face` uint8 [b, 3, 448, 448], caption ids [b, 77] and the row's json;
`cached` ones hold the towers' features, at FaceCLIP-L's sizes, instead of the faces. A row costs the seconds
that all threads of this process computed; the main thread's are what is taken from the step. Contenders take
turns; numbers are medians, with the range in brackets.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from PIL import Image
from torch import Tensor
from training_common import machine, spread, table

from train.data import shards
from train.data.batches import ReadOptions, TrainingData
from train.data.captions import caption_ids
from train.data.decode import DecodeSample
from train.data.shards import Sample, ShardSource, write_shard

Batches = Iterator[Any]
_FEATURES = {"clip_image": (768,), "clip_text": (768,), "class_token": (1, 512)}
_PATCHES = (1, 144, 768)


@dataclass
class Found:
    """What each turn of a contender cost."""

    row: list[float] = field(default_factory=list)
    """Seconds that all threads computed, a row."""
    main: list[float] = field(default_factory=list)
    """Seconds of the main thread, a batch."""
    bytes: float = 0.0
    """Read from the disk, a row."""


def measure(options: argparse.Namespace) -> str:
    """One row for each contender; the ratio is webdataset's / ours, of neighbouring turns."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, options.samples)
        cache = _features(folder, options.samples)
        contenders = {
            "ours, faces live": lambda: _ours(folder, options),
            "ours, all cached": lambda: _cached(folder, cache, options),
            "webdataset, faces live": lambda: _webdataset(folder, options.batch),
        }
        found = {what: Found() for what in contenders}
        for _ in range(options.rounds):
            for what, build in contenders.items():
                _turn(found[what], build, options)
    theirs = found["webdataset, faces live"]
    rows = [
        [
            what,
            f"{1 / np.median(each.row):.0f}",
            spread([seconds * 1e3 for seconds in each.row], 2),
            spread([b / a for a, b in zip(each.row, theirs.row, strict=True)], 2),
            spread([seconds * 1e3 * 384 / options.batch for seconds in each.main], 1),
            f"{each.bytes / 1e3:.1f}",
        ]
        for what, each in found.items()
    ]
    head = ["", "rows/s of one core", "CPU ms a row", "webdataset's / this", "main thread, ms per 384 rows", "KB read a row"]
    beside = f"{options.processes} processes beside (their time not counted), " if options.processes else ""
    title = (
        f"Feeding, {options.batch} rows a batch, {beside}{options.rounds} rounds of {options.batches} batches, {machine(options)}"
    )
    return table(title, head, rows)


def _turn(found: Found, build: Callable[[], Batches], options: argparse.Namespace) -> None:
    read: list[int] = []
    plain = shards.read_range
    shards.read_range = lambda path, start, end: (read.append(end - start), plain(path, start, end))[1]  # type: ignore[assignment]
    try:
        batches = build()
        for _ in range(3):  # threads and buffers are full
            next(batches)
        read.clear()
        began, main = time.process_time(), time.thread_time()
        for _ in range(options.batches):
            next(batches)
        rows = options.batch * options.batches
        found.main.append((time.thread_time() - main) / options.batches)
        found.row.append((time.process_time() - began) / rows)
        found.bytes = sum(read) / rows
        if hasattr(batches, "close"):
            batches.close()  # pyright: ignore[reportAttributeAccessIssue]
    finally:
        shards.read_range = plain
    if not found.bytes:  # webdataset reads tars from end to end, whatever is wanted
        found.bytes = options.tar_bytes / options.samples


def _ours(folder: Path, options: argparse.Namespace) -> Batches:
    source = ShardSource(folder, read=("face", "caption", "meta"))
    options.tar_bytes = sum(Path(path).stat().st_size for path in source.shards)
    reading = ReadOptions(options.threads, options.processes, pin=torch.cuda.is_available())
    return iter(TrainingData(source, None, 0.0, options.batch, 0, 0, 1, DecodeSample(), reading))


def _cached(folder: Path, cache: dict[str, np.ndarray], options: argparse.Namespace) -> Batches:
    def beside(index: Tensor) -> dict[str, Tensor]:
        return {name: torch.from_numpy(array[index.numpy()]) for name, array in cache.items()}

    source = ShardSource(folder, read=("caption", "meta"))
    reading = ReadOptions(options.threads, pin=torch.cuda.is_available())
    return iter(TrainingData(source, None, 0.0, options.batch, 0, 0, 1, DecodeSample(faces=False), reading, beside))


def _webdataset(folder: Path, batch: int) -> Batches:
    """Its own reading, shuffling, decoding and batching, in this process."""

    def row(sample: dict[str, Any]) -> tuple[Any, ...]:
        return sample["face.jpg"].transpose(2, 0, 1), caption_ids(sample["txt"]).numpy(), sample["json"], sample["__key__"]

    urls = sorted(str(path) for path in folder.glob("*.tar"))
    dataset = webdataset.WebDataset(urls, shardshuffle=False).shuffle(256)  # pyright: ignore[reportAttributeAccessIssue]
    decoded = dataset.decode("rgb8", only=["face.jpg", "txt", "json"]).map(row).batched(batch, collation_fn=_collate)
    while True:  # epochs
        yield from webdataset.WebLoader(decoded, batch_size=None, num_workers=0)  # pyright: ignore[reportAttributeAccessIssue]


def _collate(rows: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    faces, ids, notes, keys = zip(*rows, strict=True)
    return torch.from_numpy(np.stack(faces)), torch.from_numpy(np.stack(ids)), notes, keys


def _write(folder: Path, samples: int) -> None:
    """Shards as `train.prepare` makes them: photographs of 1,024 px, faces of 448."""
    random = np.random.default_rng(0)
    pictures = [(_jpeg(random, 1024), _jpeg(random, 448)) for _ in range(16)]  # decoding is what takes time, not being another
    for shard in range(4):
        of_shard = range(shard, samples, 4)
        write_shard(
            folder / f"{shard:03d}.tar",
            (
                Sample(f"{i:06d}", *pictures[i % 16], f"a person in a street at dusk, number {i}", {"identity": i})
                for i in of_shard
            ),
        )


def _jpeg(random: np.random.Generator, side: int) -> bytes:
    small = Image.fromarray(random.integers(0, 255, (side // 8, side // 8, 3), dtype=np.uint8))
    file = io.BytesIO()
    small.resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG", quality=92)
    return file.getvalue()


def _features(folder: Path, samples: int) -> dict[str, np.ndarray]:
    """What a cache holds, mapped."""
    shapes = {**{name: (shape, np.float32) for name, shape in _FEATURES.items()}, "patch_tokens": (_PATCHES, np.float16)}
    made = {}
    for name, (shape, kind) in shapes.items():
        array = np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=kind, shape=(samples, *shape))
        array[:] = 1
        made[name] = array
    return made


def main(argv: Sequence[str] | None = None) -> str:
    """Measure, print and return the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=384)
    parser.add_argument("--batches", type=int, default=4, help="of a turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=768)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--processes", type=int, default=0)
    parser.add_argument("--markdown", type=Path, help="write the table there, too")
    options = parser.parse_args(argv)
    options.device, options.cpu_time, options.size = torch.device("cuda" if torch.cuda.is_available() else "cpu"), True, "sdxl"
    text = measure(options)
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n")
    return text


if __name__ == "__main__":
    main()
