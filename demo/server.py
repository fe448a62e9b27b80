"""A real ComfyUI in a process of its own. Standard library only."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
_LOG_LINES_SHOWN = 40


class ServerError(RuntimeError):
    """ComfyUI did not start, or died; the message ends with the last lines of its log."""


class ComfyServer:
    """One ComfyUI process, from `with` to the end of the block.

    Args:
        comfyui: folder with ComfyUI's `main.py`.
        python: interpreter that has ComfyUI's requirements.
        log: file that takes everything the process prints.
        arguments: more arguments for `main.py` (`--cpu`, `--base-directory PATH`, ...).
        detached: for a server that is to outlive this process: Ctrl-C in the terminal does not reach it.
    """

    def __init__(self, comfyui: Path, python: Path, log: Path, arguments: Sequence[str] = (), *, detached: bool = False) -> None:
        self.comfyui = comfyui
        self.python = python
        self.log = log
        self.port = free_port()
        self.arguments = list(arguments)
        self.detached = detached
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """`http://host:port`, without a slash at the end."""
        return f"http://{HOST}:{self.port}"

    @property
    def kill_command(self) -> str:
        """What a user types to end the process."""
        pid = self.process.pid if self.process else 0
        return f"taskkill /PID {pid} /F" if sys.platform == "win32" else f"kill {pid}"

    def start(self, timeout: float = 300.0) -> ComfyServer:
        """Start the process and wait until it answers. Raises ServerError with the log's tail."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = [str(self.python), "main.py", "--listen", HOST, "--port", str(self.port)]
        command += ["--disable-auto-launch", "--disable-api-nodes", "--database-url", "sqlite:///:memory:"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *self.arguments],
                cwd=self.comfyui,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=self.detached,
            )
        logger.info("ComfyUI starts at %s (process %d, log %s)", self.address, self.process.pid, self.log)
        deadline = time.monotonic() + timeout
        try:
            while not self.answers():
                self.check_alive()
                if time.monotonic() > deadline:
                    raise ServerError(f"ComfyUI did not answer within {timeout:.0f} s.\n{self.log_tail()}")
                time.sleep(0.2)
        except BaseException:  # Ctrl-C too: nothing is left running
            self.stop()
            raise
        return self

    def answers(self) -> bool:
        """Whether the server answers a request now."""
        try:
            with urllib.request.urlopen(f"{self.address}/system_stats", timeout=5) as response:
                return response.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def check_alive(self) -> None:
        """Raise ServerError if the process has ended."""
        code = self.process.poll() if self.process else None
        if code is not None:
            raise ServerError(f"ComfyUI ended with exit code {code}.\n{self.log_tail()}")

    def log_tail(self) -> str:
        """The last lines of the log, under a line that says where the whole of it is."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES_SHOWN:]
        return "\n".join([f"The end of its log ({self.log}):", *(f"  {line}" for line in lines)])

    def stop(self) -> None:
        """End the process that `start` started, and no other; kill it if it does not go in 10 s."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> ComfyServer:
        return self if self.process else self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def free_port() -> int:
    """A port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def _environment() -> dict[str, str]:
    return {
        # Threads that wait for work sleep instead of spinning: on a busy machine with few cores, four times as fast.
        "OMP_WAIT_POLICY": "PASSIVE",
        **os.environ,
        # ComfyUI's log has emoji and box characters; a pipe on Windows would choke on them.
        "PYTHONUTF8": "1",
        "PYTHONUNBUFFERED": "1",
    }
