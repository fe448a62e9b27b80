"""Whether the mini weights are trained: their files say so themselves. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path


def untrained(files: Iterable[Path]) -> list[Path]:
    """The safetensors files whose metadata says `trained: false`."""
    return [path for path in files if _metadata(path).get("trained") == "false"]


def _metadata(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        header = file.read(int.from_bytes(file.read(8), "little"))
    return json.loads(header).get("__metadata__", {})
