"""Format, lint and types: the same tools and settings that editors use (pyproject.toml)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("command", ["ruff format --check .", "ruff check .", "pyright"])
def test_the_tool_has_nothing_to_say(command: str) -> None:
    tool, *arguments = command.split()
    program = Path(sys.executable).with_name(tool)
    done = subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
