"""What preparing says of the records that it left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from train.data.storage import join, read_bytes


def dropped_lines(out: str | Path) -> list[dict[str, Any]]:
    """The lines of dropped.jsonl in a folder or at a URL."""
    return [json.loads(line) for line in read_bytes(join(str(out), "dropped.jsonl")).splitlines()]
