"""What ComfyUI's registry and the community's checker say of the pack, run on a clean export of the tracked files."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from demo.link import ROOT


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pack's tracked files as they are now, committed or not, and nothing else."""
    folder = tmp_path_factory.mktemp("export") / "faceclip"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def run(tool: str, arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name(tool)
    return subprocess.run([program, *arguments.split()], cwd=folder, capture_output=True, text=True)


def test_the_registry_would_publish_the_pack(export: Path) -> None:
    done = run("comfy", "--skip-prompt --no-enable-telemetry node validate", export)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All validation checks passed" in done.stdout + done.stderr
    assert "warning" not in (done.stdout + done.stderr).lower()


def test_the_published_archive_has_what_runs_and_nothing_for_developers(export: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(export, tmp_path / "faceclip")
    for command in ("init --quiet", "add --all"):  # the packer takes what git tracks
        subprocess.run(["git", *command.split()], cwd=folder, check=True)
    done = run("comfy", "--skip-prompt --no-enable-telemetry node pack", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(folder / "node.zip") as archive:
        names = set(archive.namelist())
    assert {"__init__.py", "pyproject.toml", "requirements.txt", "LICENSE"} <= names
    for part in ("faceclip", "models", "nodes", "workflows"):
        files = {path.relative_to(export).as_posix() for path in (export / part).rglob("*") if path.is_file()}
        assert files and files <= names
    assert not {name.split("/")[0] for name in names} & {".ci", "benchmarks", "demo", "dev.py", "scripts", "tests"}


def test_comfy_test_finds_nothing_to_complain_of(export: Path) -> None:
    done = run("comfy-test", "lint .", export)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[SYNTAX] PASSED" in done.stdout + done.stderr


def test_comfy_test_would_see_a_raw_layer(export: Path, tmp_path: Path) -> None:
    # What the test above relies on.
    broken = shutil.copytree(export, tmp_path / "broken")
    # In two halves, or this very file would be complained of.
    (broken / "nodes" / "raw.py").write_text("import torch.nn as nn\n\nlayer = nn." + "Linear(1, 1)\n")
    assert run("comfy-test", "lint .", broken).returncode != 0
