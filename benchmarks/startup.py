"""What the pack adds to ComfyUI's start: whole starts with it, and with an empty pack in its place, by turns.

    python benchmarks/startup.py --comfyui .dev/comfyui --runs 10

ComfyUI is started with `--quick-test-for-ci`, which ends it once all nodes are loaded; the seconds are those
of the whole process and, beside them, what ComfyUI's own log says that importing the pack took. The first
start of each kind is not counted: it reads files from the disk.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from train.proof.report.results import Estimate

ROOT = Path(__file__).resolve().parent.parent
EMPTY = "NODE_CLASS_MAPPINGS = {}\n"


def main(arguments: Sequence[str] | None = None) -> str:
    """Run the benchmark; print and return its table."""
    parser = argparse.ArgumentParser(description="Measure what importing the pack adds to ComfyUI's start.")
    parser.add_argument("--comfyui", type=Path, default=ROOT / ".dev" / "comfyui", help="folder with ComfyUI's main.py")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="interpreter that has its requirements")
    parser.add_argument("--runs", type=int, default=10, help="counted starts of each kind")
    options = parser.parse_args(arguments)
    seconds: dict[str, list[float]] = {"empty": [], "faceclip": []}
    imports: dict[str, list[float]] = {"empty": [], "faceclip": []}
    with tempfile.TemporaryDirectory() as folder:
        bases = {name: base_folder(Path(folder) / f"with {name}", name) for name in seconds}
        for run in range(options.runs + 1):
            for name, base in bases.items():
                whole, own = start(options.comfyui, options.python, base, name)
                if run:
                    seconds[name].append(whole)
                    imports[name].append(own)
    text = table(seconds, imports)
    print(text)
    return text


def base_folder(base: Path, pack: str) -> Path:
    """A folder for ComfyUI's `--base-directory` with one pack among its
    custom nodes, `pack`: this one, or one with nothing."""
    place = base / "custom_nodes" / pack
    place.parent.mkdir(parents=True)
    if pack == "faceclip":
        place.symlink_to(ROOT, target_is_directory=True)
    else:
        place.mkdir()
        (place / "__init__.py").write_text(EMPTY)
    return base


def start(comfyui: Path, python: Path, base: Path, pack: str) -> tuple[float, float]:
    """Seconds of one whole start, and those that the log gives for importing the pack (to a tenth)."""
    # Absolute, not resolved: the `python` of a virtual environment is a link, and what it points to has other packages.
    command = [str(python.absolute()), "main.py", "--quick-test-for-ci", "--cpu", "--disable-api-nodes"]
    command += ["--base-directory", str(base), "--database-url", "sqlite:///:memory:"]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=comfyui, capture_output=True, text=True)
    whole = time.perf_counter() - began
    said = done.stdout + done.stderr
    found = re.search(rf"(\d+\.\d+) seconds(?P<failed> \(IMPORT FAILED\))?: \S.*custom_nodes/{pack}\b", said)
    if done.returncode or not found or found["failed"]:
        raise SystemExit(f"ComfyUI did not load {pack} (exit code {done.returncode}). The end of what it said:\n{said[-3000:]}")
    return whole, float(found[1])


def table(seconds: dict[str, list[float]], imports: dict[str, list[float]]) -> str:
    """Both kinds of start, and their difference with its 95 % interval (paired, over the turns)."""
    lines = ["| pack | starts | whole start, s (mean, min to max) | import by ComfyUI's log, s (mean) |", "|---|---|---|---|"]
    for name, values in seconds.items():
        spread = f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"
        lines.append(f"| {name} | {len(values)} | {spread} | {np.mean(imports[name]):.2f} |")
    turns = zip(seconds["faceclip"], seconds["empty"], strict=True)
    added = Estimate.of([with_it - without for with_it, without in turns])
    interval = f" +- {added.high - added.mean:.2f}" if added.known else ""
    ratio = np.mean(seconds["faceclip"]) / np.mean(seconds["empty"])
    lines.append(f"\nThe pack adds {added.mean:.2f}{interval} s; a start takes {ratio:.3f} of one with an empty pack.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
