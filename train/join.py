"""Put two encoders that were trained apart into one file.

By `python -m train.join L.safetensors G.safetensors OUT.safetensors`.

SDXL takes FaceCLIP-L's branch and FaceCLIP-bigG's side by side.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from faceclip import FaceCLIPEncoder

from .frozen.towers import join
from .run.command_line import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 when finished, 1 for an error that it explains."""
    return run_command(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, text in (("l", "encoder file with branch l"), ("g", "encoder file with branch g"), ("out", "file to write")):
        parser.add_argument(name, type=Path, help=text)
    options = parser.parse_args(argv)
    join(FaceCLIPEncoder.from_file(options.l), FaceCLIPEncoder.from_file(options.g)).save(options.out)


if __name__ == "__main__":
    sys.exit(main())
