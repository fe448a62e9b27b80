"""How much pictures look like people, by the judge that measured the mini
model: `python -m demo.judging PEOPLE --pictures ...`.

It prints JSON: for each picture, its likeness to each of the people. It is a program of its own because it
needs torch, which ComfyUI's Python has and the demo's own may not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .link import ROOT

JUDGE = ROOT / "demo" / "judge.safetensors"
SIZE = 128
"""Side in pixels of the pictures that the judge has learned from; others are brought to it."""


class JudgeError(RuntimeError):
    """The judge could not be run; the message has its own words."""


def likeness(people: Sequence[Path], pictures: Sequence[Path], python: Path) -> list[list[float]]:
    """[pictures][people]: cosines in [-1, 1]. `python` is an interpreter with torch. Raises JudgeError."""
    command = [python, "-m", "demo.judging", *people, "--pictures", *pictures]
    done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise JudgeError(f"The judge of the pictures failed:\n{done.stderr.strip()}")
    return json.loads(done.stdout)


def main(arguments: Sequence[str] | None = None) -> None:
    import torch

    from train.proof.teachers.judge import load_trained_judge

    parser = argparse.ArgumentParser(prog="demo.judging", description="Print how much pictures look like people.")
    parser.add_argument("people", nargs="+", type=Path, help="a picture of each person")
    parser.add_argument("--pictures", nargs="+", type=Path, required=True)
    options = parser.parse_args(arguments)
    judge = load_trained_judge(JUDGE)
    images = torch.stack([_read(path) for path in (*options.people, *options.pictures)])
    people, pictures = judge.embed(images).split([len(options.people), len(options.pictures)])
    print(json.dumps((pictures @ people.T).tolist()))


def _read(path: Path):
    import numpy as np
    import torch
    from PIL import Image

    from faceclip.face import load_photo

    small = Image.fromarray(load_photo(path)).resize((SIZE, SIZE), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1)


if __name__ == "__main__":
    main()
