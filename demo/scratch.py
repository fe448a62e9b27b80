"""A ComfyUI of one's own for a while: the pack in it, empty folders, gone afterwards.

For scripts and benchmarks.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .link import ROOT, link_pack
from .server import ComfyServer

FOLDERS = ("models", "input", "output", "temp", "user")


def comfyui_program() -> Path:
    """The ComfyUI at COMFYUI_PATH, else the one that `python dev.py demo` fetched."""
    return Path(os.environ.get("COMFYUI_PATH") or ROOT / ".dev" / "comfyui").resolve()


@contextmanager
def scratch_server(*arguments: str) -> Iterator[tuple[ComfyServer, Path]]:
    """A running server and the folder that all its folders are in; `arguments` are more for ComfyUI's `main.py`."""
    with tempfile.TemporaryDirectory() as parent:
        base = Path(parent) / "comfyui"
        for folder in FOLDERS:
            (base / folder).mkdir(parents=True)
        link_pack(base / "custom_nodes")
        options = ["--cpu", "--base-directory", str(base), *arguments]
        with ComfyServer(comfyui_program(), Path(sys.executable), base / "server.log", options) as server:
            yield server, base
