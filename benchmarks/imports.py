"""How long a fresh Python takes until the library has loaded an encoder
and encoded a prompt, beside torch's own import.

    python benchmarks/imports.py [--runs 5]

Each program runs as a process of its own, by turns. The seconds are the processor's, since other load on the
machine lengthens the others; of the runs the median counts. The encoder is mini, so what is left is imports.
"and torch._dynamo" is what building an encoder with torch's own initialisation on the meta device would
import on top.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MINI = ROOT / "models" / "faceclip" / "faceclip_mini_encoder.safetensors"
LOAD = f"import torch, faceclip; encoder = faceclip.FaceCLIPEncoder.from_file({str(MINI)!r})"
PROGRAMS = {
    "torch alone": "import torch",
    "faceclip, an encoder loaded": LOAD,
    "and a prompt encoded": f"{LOAD}; encoder.encode(['a cat'])",
    "and torch._dynamo": f"{LOAD}; encoder.encode(['a cat']); import torch._dynamo",
    "and all of OpenCLIP": f"{LOAD}; encoder.encode(['a cat']); import open_clip",
}
TOLD = "; import sys, time; print(time.process_time(), len(sys.modules), 'torch._dynamo' in sys.modules)"


def main(arguments: Sequence[str] | None = None) -> str:
    """Run the benchmark; print and return its table."""
    parser = argparse.ArgumentParser(description="Measure what the library imports.")
    parser.add_argument("--runs", type=int, default=5, help="of each program")
    runs = parser.parse_args(arguments).runs
    found: dict[str, list[list[str]]] = {name: [] for name in PROGRAMS}
    for _ in range(runs):
        for name, program in PROGRAMS.items():
            done = subprocess.run([sys.executable, "-c", program + TOLD], cwd=ROOT, capture_output=True, text=True, check=True)
            found[name].append(done.stdout.split())
    lines = ["| program | CPU seconds | modules | torch._dynamo |", "|---|---:|---:|---|"]
    for name, results in found.items():
        seconds = statistics.median(float(result[0]) for result in results)
        lines.append(f"| {name} | {seconds:.2f} | {results[0][1]} | {'yes' if results[0][2] == 'True' else 'no'} |")
    text = "\n".join(lines)
    print(text)
    return text


if __name__ == "__main__":
    main()
