"""Put two encoders that were trained apart into one file: `python -m train.join L.safetensors G.safetensors OUT.safetensors`.

SDXL takes FaceCLIP-L's branch and FaceCLIP-bigG's side by side.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from faceclip import FaceCLIPEncoder
from faceclip.checkpoint import save_encoder

from .frozen.towers import join


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, text in (("l", "encoder file with branch l"), ("g", "encoder file with branch g"), ("out", "file to write")):
        parser.add_argument(name, type=Path, help=text)
    options = parser.parse_args(argv)
    try:
        save_encoder(join(FaceCLIPEncoder.from_file(options.l), FaceCLIPEncoder.from_file(options.g)), options.out)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
