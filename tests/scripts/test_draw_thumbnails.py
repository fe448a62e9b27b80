"""Every workflow has its thumbnail, drawn by the script, of the size that the template browser shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = ROOT / "workflows"


def test_every_workflow_has_a_thumbnail_and_no_thumbnail_is_left_over() -> None:
    assert {path.stem for path in WORKFLOWS.glob("*.jpg")} == {path.stem for path in WORKFLOWS.glob("*.json")}


@pytest.mark.program
def test_the_committed_thumbnails_are_what_the_script_draws(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "scripts/draw_thumbnails.py", tmp_path], check=True, cwd=ROOT)
    for path in sorted(WORKFLOWS.glob("*.jpg")):
        committed, drawn = (np.asarray(Image.open(folder / path.name), dtype=float) for folder in (WORKFLOWS, tmp_path))
        assert committed.shape == (400, 400, 3)
        # Not bit for bit: another Pillow may shape an edge or a letter a little differently.
        assert np.abs(committed - drawn).mean() < 3, path.name
        assert path.stat().st_size < 60_000
