"""Mutated files of every kind that is read from outside: only the
declared errors may leave, in bounded memory and time.

    python benchmarks/fuzz.py                        # 2,000 mutations of each kind
    python benchmarks/fuzz.py --count 200 --kinds png csv --seed 7

Each kind has a process of its own. A mutation is a flipped bit, a cut, an exchange of two stretches, bytes of
another place, or a huge number, up to four of them at once; the same seed makes the same files. With --keep,
files that showed a fault are kept.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import multiprocessing
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SECONDS = 10
MEMORY = 1 << 30  # bytes beyond the file's size
_HUGE = (
    *(b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\xff" * 8),
    *(b"99999999999", b"-1", b"1e400"),
)


@dataclass(frozen=True)
class Kind:
    """A kind of file: how one is made, and what reads it. `read` raises one of `errors` for what it refuses."""

    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    errors: tuple[type[BaseException], ...]


@dataclass
class Outcome:
    """What became of the mutations of one kind."""

    read: int = 0
    refused: int = 0
    raw: list[str] = field(default_factory=list)
    """Errors that are none of the declared ones, calls that took too long, and the end of the process."""
    memory: int = 0
    """Bytes of the process at most, beyond what it had before the first file."""
    slowest: float = 0.0


def mutate(content: bytes, chance: random.Random) -> bytes:
    """One to four changes."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        if len(changed) < 16:
            break
        # Where most formats have their numbers, half of the time.
        place = chance.randrange(min(len(changed), 256) if chance.random() < 0.5 else len(changed))
        what = chance.randrange(5)
        if what == 0:
            changed[place] ^= 1 << chance.randrange(8)
        elif what == 1:
            del changed[place if chance.random() < 0.5 else max(place, len(changed) - 64) :]
        elif what == 2:
            length, other = chance.randrange(1, 64), chance.randrange(len(changed))
            one, two = bytes(changed[place : place + length]), bytes(changed[other : other + length])
            changed[place : place + length], changed[other : other + length] = two, one
        elif what == 3:
            huge = chance.choice(_HUGE)
            changed[place : place + len(huge)] = huge
        else:
            changed[place:place] = changed[chance.randrange(len(changed)) :][: chance.randrange(1, 64)]
    return bytes(changed)


def _picture(kind: str, mode: str = "RGB", **options) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        y, x = np.mgrid[0:96, 0:128]
        pixels = np.stack([x * 2, y * 2, (x + y) % 256], axis=-1).astype(np.uint8)
        tag = Image.Exif()
        tag[0x112] = 6
        picture = Image.fromarray(pixels)
        picture = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else picture.convert(mode)
        path = folder / f"photo.{kind.lower()}"
        picture.save(path, kind, **({"exif": tag} if kind in ("JPEG", "PNG", "WEBP") else {}), **options)
        return path

    return make


def _weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {f"layer.{i}.weight": torch.randn(4, 6) for i in range(4)} | {"scale": torch.tensor(2.5), "count": torch.arange(5)}


def _tensors(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        from faceclip.tensor_file import write_safetensors

        path = folder / name
        if name.endswith(".safetensors"):
            write_safetensors(path, _weights(), {"format": "pt"})
        else:
            torch.save({"state_dict": _weights(), "step": 3}, path, _use_new_zipfile_serialization=name == "zip.pt")
        return path

    return make


def _identity(folder: Path) -> Path:
    from faceclip import Identity

    person = Identity(torch.randn(1, 1, 16), torch.randn(1, 1, 9, 8), torch.tensor([True]), torch.randn(1, 8))
    person.save(folder / "person.safetensors")
    return folder / "person.safetensors"


def _shard(folder: Path) -> Path:
    from train.data.shards import Sample, write_shard

    photo = _picture("JPEG")(folder).read_bytes()
    write_shard(folder / "s.tar", [Sample(f"k{i}", photo, None, "a man on a beach", {"identity": i}) for i in range(3)])
    return folder / "s.tar"


def _samples(path: Path) -> object:
    from train.data.shards import ShardSource

    source = ShardSource(path)
    return [(source[row], source[row].identity, source.key(row)) for row in range(len(source))]


def _unindexed(folder: Path) -> Path:
    path = _shard(folder)
    Path(f"{path}.index").unlink()
    return path


def _checkpoint(folder: Path) -> Path:
    from train.run.checkpointing import Checkpoints
    from train.run.ranks import Ranks

    run = Checkpoints(folder / "run", Ranks(0, 1, torch.device("cpu")), 1)
    run.save(1, {"model.w": torch.randn(64)}, {"config": {"steps": 1}})
    return run.path(1) / ".metadata"


def _resumed(path: Path) -> object:
    from train.run.checkpointing import Checkpoints
    from train.run.ranks import Ranks

    run = Checkpoints(path.parents[1], Ranks(0, 1, torch.device("cpu")), 1)
    found = run.latest()
    return found and (found[1]["config"], run.saved(found[0])["model.w"])


def _text(name: str, text: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_text(text, encoding="utf-8")
        return folder / name

    return make


def _parquet(folder: Path) -> Path:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"path": [f"p{i}.jpg" for i in range(50)], "caption": [f"caption {i}" for i in range(50)]})
    pyarrow.parquet.write_table(table, folder / "t.parquet")
    return folder / "t.parquet"


def _records(path: Path) -> object:
    from train.prepare.sources import Columns, find_units

    return [record for unit in find_units(str(path), 100, Columns()) for record in unit.records()]


def _configuration(path: Path) -> object:
    from train.pretrain.config import PretrainConfig
    from train.run.command_line import read_yaml

    return read_yaml(str(path), PretrainConfig)


def kinds() -> dict[str, Kind]:
    """Every kind, by the name that the table gives it."""
    from faceclip import Identity
    from faceclip.face import FaceError, load_photo
    from faceclip.tensor_file import CheckpointError, open_tensor_file
    from train.data.shards import ShardError
    from train.evaluate.protocol import ProtocolError
    from train.prepare.sources import SourceError
    from train.run.checkpointing import ResumeError
    from train.run.config import ConfigError
    from train.study.votes import read_votes

    def tensors(path: Path) -> object:
        return {name: (entry.read(), entry.mapped().sum()) for name, entry in open_tensor_file(path).entries.items()}

    rows = "".join(f"p{i}.jpg,a caption of {i}\n" for i in range(30))
    votes = "time,voter,pair,question,left,choice,study\n" + "".join(f"t,ann,{i},quality,A,B,\n" for i in range(20))
    photos = {
        "jpeg": _picture("JPEG"),
        "jpeg, progressive": _picture("JPEG", progressive=True),
        "png": _picture("PNG"),
        "png, 16-bit grey": _picture("PNG", "I;16"),
        "webp": _picture("WEBP"),
        "tiff": _picture("TIFF", compression="tiff_lzw"),
        "gif": _picture("GIF", "P"),
        "bmp": _picture("BMP"),
        "avif": _picture("AVIF"),
        "jpeg 2000": _picture("JPEG2000"),
    }
    files = {
        "safetensors": Kind(_tensors("weights.safetensors"), tensors, (CheckpointError,)),
        "pt (zip)": Kind(_tensors("zip.pt"), tensors, (CheckpointError,)),
        "pt (old)": Kind(_tensors("old.pt"), tensors, (CheckpointError,)),
        "identity": Kind(_identity, Identity.load, (CheckpointError,)),
        "shard": Kind(_unindexed, _samples, (ShardError,)),
        "shard with its index": Kind(_shard, _samples, (ShardError,)),
        "index": Kind(lambda folder: Path(f"{_shard(folder)}.index"), lambda p: _samples(p.with_suffix("")), (ShardError,)),
        "checkpoint": Kind(_checkpoint, _resumed, (ResumeError,)),
        "yaml": Kind(_text("c.yaml", "steps: 10\nlr: 2e-5\nbetas: [0.9, 0.95]\nout: run\n"), _configuration, (ConfigError,)),
        "csv": Kind(_text("t.csv", "path,caption\n" + rows), _records, (SourceError,)),
        "tsv": Kind(_text("t.tsv", "path\tcaption\n" + rows.replace(",", "\t")), _records, (SourceError,)),
        "parquet": Kind(_parquet, _records, (SourceError,)),
        "votes": Kind(_text("votes.csv", votes), read_votes, (ProtocolError,)),
    }
    return {name: Kind(make, load_photo, (FaceError,)) for name, make in photos.items()} | files


def try_kind(name: str, count: int, seed: int, keep: Path | None = None) -> Outcome:
    """Read `count` mutations of one kind in this process."""
    kind, chance, outcome = kinds()[name], random.Random(f"{seed} {name}"), Outcome()

    def late(*_: object) -> None:
        raise TimeoutError(f"over {SECONDS} s")

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        path = kind.make(Path(folder))
        whole = path.read_bytes()
        kind.read(path)  # what it imports is no part of the measure
        before = _resident()
        signal.signal(signal.SIGALRM, late)
        for number in range(count):
            content = mutate(whole, chance)
            path.write_bytes(content)
            start = time.perf_counter()
            signal.alarm(SECONDS)
            try:
                kind.read(path)
                outcome.read += 1
            except kind.errors:
                outcome.refused += 1
            except BaseException as error:
                outcome.raw.append(f"mutation {number}: {type(error).__name__}: {str(error)[:120]}")
                if keep is not None:
                    (keep / f"{name.replace(' ', '_')}_{number}{path.suffix}").write_bytes(content)
            finally:
                signal.alarm(0)
            outcome.slowest = max(outcome.slowest, time.perf_counter() - start)
        outcome.memory = max(0, _resident() - before)
        logging.disable(logging.NOTSET)
    return outcome


def _resident() -> int:
    """Bytes of memory that this process had at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _in_a_process(name: str, count: int, seed: int, keep: Path | None) -> Outcome:
    context = multiprocessing.get_context("spawn")  # of a process that was forked, the most is its parent's
    reading, writing = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(writing, name, count, seed, keep))
    process.start()
    writing.close()
    try:
        return reading.recv()
    except EOFError:
        process.join()
        return Outcome(raw=[f"the process ended ({process.exitcode})"])
    finally:
        process.join()


def _send(pipe, *arguments) -> None:
    torch.set_num_threads(1)
    pipe.send(try_kind(*arguments))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Read mutated files of every kind.")
    parser.add_argument("--count", type=int, default=2000, help="mutations of each kind (default: 2000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=[], help=f"some of: {', '.join(kinds())} (default: all)")
    parser.add_argument("--keep", type=Path, help="a folder for the files that showed a fault")
    options = parser.parse_args(argv)
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    print("| kind | mutations | read | refused | other ends | memory, MiB | slowest, s |")
    print("| --- " * 7 + "|")
    wrong = {}
    for name in options.kinds or kinds():
        found = _in_a_process(name, options.count, options.seed, options.keep)
        memory, late = found.memory / 2**20, f"{found.slowest:.2f}"
        print(
            f"| {name} | {options.count} | {found.read} | {found.refused} | {len(found.raw)} | {memory:.0f} | {late} |",
            flush=True,
        )
        if found.raw or found.memory > MEMORY:
            wrong[name] = found.raw[:8] or [f"{found.memory:,} bytes"]
    if wrong:
        print(json.dumps(wrong, indent=1))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
