"""What weighted words, a strength in between, and the negative prompt
cost beside a plain prompt, of the full-size encoder.

    python benchmarks/prompts.py [--threads 2] [--repeats 5] [--device cpu] [--dtype fp32] [--against DTYPE]
        [--only plain] [--markdown FILE]

Weights are random: the time does not depend on them. Each row is timed by turns with the plain prompt of the
same round, and the ratio is that of the medians; beside it stands how many rows of 77 tokens went through the
encoder, in how many passes. "First" is with a person the encoder has not met, "again" is any later prompt
with that person. On a CPU the seconds are the processor's, of all threads, since other load on the machine
lengthens the others.

With --against, a second encoder's plain prompt stands in the table, too: its weights are kept in that dtype,
and both encoders compute in fp32, as the nodes do. --only: the rows whose names begin so.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from encoder import random_encoder

from faceclip import FaceCLIPEncoder

DTYPES = {"int8": torch.int8, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PLAIN = "a woman in a red coat on a rainy street at night, neon light, shallow depth of field"
WEIGHTED = PLAIN.replace("red coat", "(red coat:1.2)")
NEGATIVE = "blurry, lowres, watermark"


def main(arguments: Sequence[str] | None = None) -> str:
    """Run the benchmark; print and return its table."""
    parser = argparse.ArgumentParser(description="Measure what the kinds of prompts cost.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="what the weights are kept in")
    parser.add_argument("--against", choices=[name for name in DTYPES if name != "int8"], help="of a second encoder")
    parser.add_argument("--only", default="", help="the rows whose names begin so")
    parser.add_argument("--preset", default="sdxl", help="the encoder's size")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    compute = torch.float32 if options.against else None
    device = torch.device(options.device)
    kept = DTYPES[options.dtype]
    encoder = random_encoder(torch.bfloat16 if kept == torch.int8 else kept, device, options.preset, compute)
    if kept == torch.int8:
        encoder.to_int8()
    others = {}
    if options.against:
        others[f"plain, kept in {options.against}"] = random_encoder(DTYPES[options.against], device, options.preset, compute)
    text = table(encoder, options.repeats, others, options.only)
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n")
    return text


def table(encoder: FaceCLIPEncoder, repeats: int, others: Mapping[str, FaceCLIPEncoder], only: str = "") -> str:
    """Every kind of prompt, `repeats` times, and the plain one of other encoders."""
    faces = torch.rand(repeats + 2, 3, 448, 448, generator=torch.Generator().manual_seed(0))
    encoder.blank_face()
    people = iter([encoder.encode_faces(face[None]) for face in faces])
    known = next(people)
    kinds: dict[str, Callable[[], object]] = {
        "plain": lambda: encoder.encode([PLAIN], known),
        "weighted words, first": lambda: encoder.encode([WEIGHTED], next(people)),
        "weighted words, again": lambda: encoder.encode([WEIGHTED], known),
        "strength 0.6": lambda: encoder.encode([PLAIN], known, strength=0.6),
        "weighted words, again, at strength 0.6": lambda: encoder.encode([WEIGHTED], known, strength=0.6),
        "positive and negative, one after the other": lambda: (encoder.encode([PLAIN], known), encoder.encode([NEGATIVE])),
        "positive and negative in one pass": lambda: encoder.encode_with_negative([PLAIN], [NEGATIVE], known),
    }
    for name, other in others.items():
        theirs = other.encode_faces(faces[:1])
        kinds[name] = functools.partial(other.encode, [PLAIN], theirs)
    plain, kinds = kinds["plain"], {kind: job for kind, job in kinds.items() if kind.startswith(only)}
    encoder.encode([WEIGHTED], known, strength=0.6)
    passes = {kind: _passes(others.get(kind, encoder), job) for kind, job in kinds.items()}
    seconds: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for _ in range(repeats):
        for kind, job in kinds.items():
            seconds[kind].append((_time(job, encoder.device), _time(plain, encoder.device)))
    lines = ["| prompt | rows x 77 tokens | passes | seconds | of a plain one |", "|---|---:|---:|---:|---:|"]
    for kind, times in seconds.items():
        own, plain = (statistics.median(column) for column in zip(*times, strict=True))
        rows = passes[kind]
        lines.append(f"| {kind} | {sum(rows)} | {len(rows)} | {own:.3f} | {own / plain:.2f} |")
    return "\n".join(lines)


def _passes(encoder: FaceCLIPEncoder, job: Callable[[], object]) -> list[int]:
    rows: list[int] = []
    handle = encoder.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    job()
    handle.remove()
    return rows


def _time(job: Callable[[], object], device: torch.device) -> float:
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    start = clock()
    job()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


if __name__ == "__main__":
    main()
