"""Format, lint and types: the same tools and settings that editors use (pyproject.toml)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


QUICK_TYPES = ("faceclip", "nodes", "train", "demo", "dev.py")
"""Where `--quick` looks at types: for benchmarks and scripts, pyright reads diffusers' training code as well."""


@pytest.mark.parametrize("command", ["ruff format --check .", "ruff check .", "pyright"])
def test_the_tool_has_nothing_to_say(command: str, request: pytest.FixtureRequest) -> None:
    tool, *arguments = command.split()
    if tool == "pyright" and request.config.getoption("--quick"):
        arguments += QUICK_TYPES
    program = Path(sys.executable).with_name(tool)
    done = subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
