"""The photo of the demo, read before anything is started: `python -m
demo.photo PHOTO` says in one line why it cannot be used.

It is a program of its own because the pack's reader needs torch,
which ComfyUI's Python has and the demo's own may not.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .link import ROOT


class PhotoError(ValueError):
    """A photo cannot be used."""


def user_photo(path: Path, python: Path) -> bytes:
    """The file's bytes, once the pack has read it whole, in `python`, an interpreter with torch.

    Raises PhotoError that says what is wrong.
    """
    if not path.is_file():
        raise PhotoError(f"There is no photo at {path}.")
    done = subprocess.run([str(python), "-m", "demo.photo", str(path.absolute())], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise PhotoError(done.stderr.strip())
    return path.read_bytes()


def main(path: str) -> int:
    """Read a photo; the exit code."""
    from faceclip.face import FaceError, load_photo

    try:
        load_photo(path)
    except FaceError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
