"""What ComfyUI's registry and the community's checker say of the pack,
run on a clean export of the tracked files."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest

pytestmark = pytest.mark.program
RunTool = Callable[..., subprocess.CompletedProcess[str]]
LARGEST_ARCHIVE = 48 << 20
# Read by ComfyUI where a pack has them.
OPTIONAL_PARTS = {"locales", "subgraphs", "web"}


def test_the_registry_would_publish_the_pack(export: Path, run_tool: RunTool) -> None:
    done = run_tool("comfy", "--skip-prompt --no-enable-telemetry node validate", export)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All validation checks passed" in done.stdout + done.stderr
    assert "warning" not in (done.stdout + done.stderr).lower()


@pytest.fixture(scope="module")
def archive(export: Path, run_tool: RunTool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the registry would hand out, as a zip file."""
    folder = shutil.copytree(export, tmp_path_factory.mktemp("archive") / "faceclip")
    for command in ("init --quiet", "add --all"):  # the packer takes what git tracks
        subprocess.run(["git", *command.split()], cwd=folder, check=True)
    done = run_tool("comfy", "--skip-prompt --no-enable-telemetry node pack", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "node.zip"


def names_in(archive: Path) -> set[str]:
    with zipfile.ZipFile(archive) as opened:
        return set(opened.namelist())


def test_the_published_archive_has_what_runs_and_nothing_for_developers(export: Path, archive: Path) -> None:
    names = names_in(archive)
    for part in ("faceclip", "models", "nodes", "workflows", *OPTIONAL_PARTS):
        files = {path.relative_to(export).as_posix() for path in (export / part).rglob("*") if path.is_file()}
        assert files <= names
    assert {name.split("/")[0] for name in names} - OPTIONAL_PARTS == {
        "CHANGELOG.md",
        "LICENSE",
        "README.md",
        "__init__.py",
        "docs",
        "faceclip",
        "models",
        "nodes",
        "pyproject.toml",
        "requirements.txt",
        "workflows",
    }
    pictures = {".jpg", ".png", ".webp"}
    assert {Path(name).suffix for name in names} <= {"", ".py", ".md", ".json", ".toml", ".txt", ".safetensors", *pictures}


def test_the_published_archive_is_small(archive: Path) -> None:
    assert archive.stat().st_size <= LARGEST_ARCHIVE
    with zipfile.ZipFile(archive) as opened:
        assert sum(file.file_size for file in opened.infolist()) <= LARGEST_ARCHIVE, "unpacked, too"


def test_no_published_file_has_the_letters_of_a_call_that_scanners_take_for_a_virus(archive: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        texts = {
            name: opened.read(name).decode() for name in opened.namelist() if name.endswith((".py", ".json", ".toml", ".txt"))
        }
    assert "faceclip/checkpoint.py" in texts
    assert [name for name, text in texts.items() if re.search(r"\b(?:eval|exec|compile)\s*\(", text)] == []


def test_what_the_readme_points_to_is_in_the_archive(export: Path, archive: Path) -> None:
    readme = (export / "README.md").read_text(encoding="utf-8")
    targets = {unquote(target.partition("#")[0]) for target in re.findall(r"\]\(([^)\s]+)\)", readme)}
    targets = {target for target in targets if target and "://" not in target}
    assert "workflows/FaceCLIP 02 Portrait.json" in targets
    assert targets <= names_in(archive)


def test_the_pack_in_the_archive_imports(archive: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path / "a pack")
    # In a process of its own, where nothing of the repository is on the path.
    code = "import faceclip, sys; from faceclip.cli import build_parser; print(faceclip.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "a pack", capture_output=True, text=True)
    assert done.returncode == 0 and "a pack" in done.stdout, done.stderr


def test_comfy_test_finds_nothing_to_complain_of(export: Path, run_tool: RunTool) -> None:
    done = run_tool("comfy-test", "lint .", export)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[SYNTAX] PASSED" in done.stdout + done.stderr


def test_comfy_test_would_see_a_raw_layer(export: Path, run_tool: RunTool, tmp_path: Path) -> None:
    # What the test above relies on.
    broken = shutil.copytree(export, tmp_path / "broken")
    # In two halves, or this very file would be complained of.
    (broken / "nodes" / "raw.py").write_text("import torch.nn as nn\n\nlayer = nn." + "Linear(1, 1)\n")
    assert run_tool("comfy-test", "lint .", broken).returncode != 0
