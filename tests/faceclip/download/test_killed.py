"""A download whose process is killed, as by a power cut: the real command in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from faceclip.cli import main

from .hub_server import Hub, serve

# Transfers are written in pieces of 10 MB: one of them has to be on the disk.
CONTENT = os.urandom(1 << 20) * 24


def test_a_killed_process_loses_nothing_that_was_on_the_disk(tmp_path: Path, monkeypatch) -> None:
    half, go_on = threading.Event(), threading.Event()
    hub = Hub({"ByteDance/FaceCLIP/model/unet.pt": CONTENT})
    hub.at_half = lambda: (half.set(), go_on.wait(60))
    server = serve(hub)
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    command = ["download", "unet.pt", "--to", str(tmp_path), "--accept-licence"]
    process = subprocess.Popen([sys.executable, "-m", "faceclip", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert half.wait(120)
        while not bytes_kept(tmp_path):
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
        hub.at_half = None
        go_on.set()
    kept = bytes_kept(tmp_path)  # counted when nothing writes any more
    assert 0 < kept < len(CONTENT) and not (tmp_path / "faceclip" / "unet.pt").exists()

    assert main(command) == 0
    assert hub.ranges()[-1] == f"bytes={kept}-"
    assert (tmp_path / "faceclip" / "unet.pt").read_bytes() == CONTENT
    server.shutdown()
    server.server_close()


def bytes_kept(folder: Path) -> int:
    return sum(part.stat().st_size for part in folder.glob("faceclip/*.part"))
