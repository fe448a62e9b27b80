"""Two folders of pictures to compare."""

from __future__ import annotations

from pathlib import Path

import pytest

from .pictures import A_COLOUR, B_COLOUR, paint


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Red pictures in `a`, blue ones in `b`, a green reference; a table with a prompt for each."""
    lines = ["image,reference,prompt"]
    for number in range(4):
        paint(tmp_path / "a" / "x" / f"{number}.png", A_COLOUR)
        paint(tmp_path / "b" / "x" / f"{number}.jpg", B_COLOUR)
        lines.append(f"x/{number}.png,{'' if number == 3 else 'ref.png'},a person in place {number}")
    paint(tmp_path / "ref.png", (40, 200, 60))
    (tmp_path / "p.csv").write_text("\n".join(lines) + "\n")
    return tmp_path
