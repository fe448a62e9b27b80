"""The server's process: what it says when ComfyUI dies, and that nothing is left behind.

A ComfyUI of one file stands in.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from demo.server import ComfyServer, ServerError

_ANSWERS = """
import argparse, http.server
parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int)
port = parser.parse_known_args()[0].port
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def server(folder: Path, program: str) -> ComfyServer:
    (folder / "main.py").write_text(program)
    return ComfyServer(folder, Path(sys.executable), folder / "logs" / "comfyui.log")


def test_a_comfyui_that_dies_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    dying = server(tmp_path, "print('loading'); raise SystemExit('the GPU is on fire')")
    with pytest.raises(ServerError, match=r"(?s)ComfyUI ended with exit code 1\..*comfyui\.log.*the GPU is on fire"):
        dying.start()


def test_a_comfyui_that_never_answers_is_ended(tmp_path: Path) -> None:
    silent = server(tmp_path, "import time; print('thinking', flush=True); time.sleep(60)")
    with pytest.raises(ServerError, match=r"(?s)did not answer within 2 s\..*thinking"):
        silent.start(timeout=2)
    assert silent.process is not None and silent.process.poll() is not None


def test_the_process_ends_with_the_block_even_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), server(tmp_path, _ANSWERS) as running:
        assert running.answers()
        process = running.process
        raise KeyError
    assert process is not None and process.poll() is not None
    assert not running.answers()
