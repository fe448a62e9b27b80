"""The pictures that the registry shows are the ones that the script draws, and what the registry takes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    subprocess.run([sys.executable, ROOT / "scripts" / "draw_icon.py", folder], check=True)
    return folder


@pytest.mark.parametrize("name", ["icon.png", "banner.png"])
def test_the_committed_picture_is_what_the_script_draws(drawn: Path, name: str) -> None:
    pictures = [np.asarray(Image.open(folder / name).convert("RGBA"), dtype=float) for folder in (IMAGES, drawn)]
    # Not bit for bit: another Pillow may shape an edge or a letter a little differently.
    assert np.abs(pictures[0] - pictures[1]).mean() < 1


def test_sizes_are_those_that_the_registry_asks_for() -> None:
    icon, banner = Image.open(IMAGES / "icon.png"), Image.open(IMAGES / "banner.png")
    assert icon.size == (400, 400)
    assert banner.width * 9 == banner.height * 21
    assert all((IMAGES / name).stat().st_size < 50_000 for name in ("icon.png", "banner.png"))


def test_the_project_names_pictures_of_its_own_repository() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (repository,) = re.findall(r'^Repository = "https://github\.com/([\w-]+/[\w-]+)"$', project, flags=re.MULTILINE)
    for key, name in (("Icon", "icon.png"), ("Banner", "banner.png")):
        (url,) = re.findall(rf'^{key} = "(.+)"$', project, flags=re.MULTILINE)
        assert url == f"https://raw.githubusercontent.com/{repository}/main/docs/images/{name}"
