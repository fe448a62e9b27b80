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
from dataclasses import dataclass, field
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from fuzz_files import kinds  # noqa: E402  # after the path to the project

SECONDS = 10
MEMORY = 1 << 30  # bytes beyond the file's size
_HUGE = (
    *(b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\xff" * 8),
    *(b"99999999999", b"-1", b"1e400"),
)


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
