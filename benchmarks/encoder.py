"""How fast the full-size encoder is, next to a large matrix product on the same machine in the same run.

    python benchmarks/encoder.py [--threads 2] [--repeats 5] [--device cpu] [--markdown FILE]

Weights are random: the time does not depend on them. Work is counted by torch's FlopCounterMode, so "of
matmul" is the encoder's FLOP/s over that of a 4096 x 4096 x 4096 product in fp32 (bf16 rows: in bf16 where
the machine computes in bf16, else in fp32, which is then what the encoder computes in, too). Each figure is
the fastest of the repeats, taken in turn with the product's, since other load on the machine only ever adds
time.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from faceclip import FaceCLIPConfig, FaceCLIPEncoder
from faceclip.ops import casting, computes_natively

PROMPTS = [
    "a man in a red suit, standing on a beach at sunset",
    "portrait, studio light",
    "riding a horse through a snowy forest, cinematic",
    "an astronaut on the moon, wide shot",
]


@dataclass
class Row:
    """One line of the table: what ran, in seconds, and the work in it."""

    name: str
    seconds: float
    flop: int
    matmul: float  # FLOP/s of the large product, same dtype, same run

    @property
    def share(self) -> float:
        return self.flop / self.seconds / self.matmul


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    faces = torch.rand(len(PROMPTS), 3, 448, 448, generator=torch.Generator().manual_seed(0))
    rows = [row for dtype in (torch.float32, torch.bfloat16) for row in measure(dtype, device, faces, args.repeats)]
    text = table(rows, device, args.threads)
    print(text)
    if args.markdown:
        args.markdown.write_text(text + "\n")


def measure_latency(options: argparse.Namespace) -> str:
    """The table of one dtype, at the size asked for: a part of `benchmarks/training.py`."""
    faces = torch.rand(len(PROMPTS), 3, 448, 448, generator=torch.Generator().manual_seed(0))
    rows = measure(
        torch.bfloat16 if options.dtype == "bf16" else torch.float32, options.device, faces, options.rounds, options.size
    )
    return table(rows, options.device, options.threads, options.size)


def measure(dtype: torch.dtype, device: torch.device, faces: Tensor, repeats: int, preset: str = "sdxl") -> list[Row]:
    encoder = random_encoder(dtype, device, preset)
    encoder.blank_face()
    identity = encoder.encode_faces(faces)
    ids = torch.cat([prompt.input_ids for prompt in encoder.encode(PROMPTS, identity).prompts])
    side = 4096 if preset == "sdxl" else 1024
    left, right = (torch.rand(side, side, device=device).to(encoder.compute_dtype) for _ in range(2))

    def branch(name: str) -> Callable[[], object]:
        """As the release does it: every branch runs a face tower of its own."""
        module = encoder.branches[name]

        def run() -> None:
            people = encoder.encode_faces(faces).to(device)
            module(ids.to(device), people.class_token[:, 0], people.patch_tokens[:, 0], people.present)

        return run

    jobs = {
        "matmul": lambda: left @ right,
        "L alone": branch("l"),
        "bigG alone": branch("g"),
        "both, face tower once": lambda: encoder.encode(PROMPTS, encoder.encode_faces(faces)),
        "both, identity cached": lambda: encoder.encode(PROMPTS, identity),
        "both, no face (negative prompt)": lambda: encoder.encode(PROMPTS),
    }
    with torch.no_grad():
        flop = {name: _count(job) for name, job in jobs.items()}
        seconds = {name: float("inf") for name in jobs}
        for _ in range(repeats):
            for name, job in jobs.items():
                seconds[name] = min(seconds[name], _time(job, device))
    matmul = flop["matmul"] / seconds["matmul"]
    label = str(dtype).removeprefix("torch.") + ("" if encoder.compute_dtype == dtype else " weights, fp32 arithmetic")
    return [Row(f"{label}: {name}", seconds[name], flop[name], matmul) for name in jobs]


def random_encoder(
    dtype: torch.dtype, device: torch.device, preset: str = "sdxl", compute: torch.dtype | None = None
) -> FaceCLIPEncoder:
    """The encoder, full-size by default, with cheap random weights (a shared
    face tower), as `from_file` would set it up."""
    compute = compute or (dtype if computes_natively(dtype, device) else torch.float32)
    with torch.device("meta"):
        encoder = FaceCLIPEncoder(FaceCLIPConfig.preset(preset), nn if compute == dtype else casting)
    encoder = encoder.to_empty(device=device).to(dtype).eval().requires_grad_(False)
    with torch.no_grad():
        for tensor in [*encoder.parameters(), *encoder.buffers()]:
            if tensor.is_floating_point():
                tensor.uniform_(-0.03, 0.03) if tensor.ndim > 1 else tensor.fill_(1)
    encoder.compute_dtype = compute
    return encoder


def table(rows: list[Row], device: torch.device, threads: int, preset: str = "sdxl") -> str:
    size = "full size" if preset == "sdxl" else f"size {preset}"
    cpu = f"{platform.processor() or platform.machine()} CPU, {threads} threads"
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
    lines = [
        f"4 prompts with 4 faces, {size}, {where}, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}",
        "",
        "| | seconds | GFLOP | GFLOP/s | of matmul |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        rate = row.flop / row.seconds / 1e9
        lines.append(f"| {row.name} | {row.seconds:.3f} | {row.flop / 1e9:.0f} | {rate:.0f} | {row.share:.2f} |")
    return "\n".join(lines)


def _count(job: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        job()
    return counter.get_total_flops()


def _time(job: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    job()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
