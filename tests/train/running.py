"""Training commands for tests, started as users start them:
`commands.py` starts them, and a `Command` is one that runs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil


class Command:
    """A running training command: one process for each rank."""

    def __init__(self, server: subprocess.Popen[str], pids: list[int], output: Path):
        self.output = output
        self._server = server
        self._codes: dict[int, int | None] = dict.fromkeys(pids)

    def codes(self) -> list[int | None]:
        """Exit code of each rank, None while it runs, negative after a signal."""
        for pid, code in self._codes.items():
            if code is None:
                self._codes[pid] = ask(self._server, {"poll": pid})
        return list(self._codes.values())

    def children(self) -> list[psutil.Process]:
        """The processes that the ranks have started, and theirs."""
        return [child for pid in self._codes for child in psutil.Process(pid).children(recursive=True)]

    def wait(self, patience: float = 120) -> list[int]:
        """Exit code of each rank, when all have ended."""
        deadline = time.monotonic() + patience
        while None in (codes := self.codes()):
            assert time.monotonic() < deadline, f"exit codes {codes} after {patience} s:\n{self.said()}"
            time.sleep(0.02)
        return [code for code in codes if code is not None]

    def send(self, number: int, rank: int = 0) -> None:
        """A signal to one rank."""
        os.kill(list(self._codes)[rank], number)

    def said(self) -> str:
        """The end of what all ranks wrote to their terminal."""
        return self.output.read_text(errors="replace")[-4000:] if self.output.is_file() else ""


def ask(server: subprocess.Popen[str], request: dict[str, Any]) -> Any:
    """What `commands.py` answers."""
    assert server.stdin and server.stdout
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


def flags(options: dict[str, Any]) -> list[str]:
    """{"batch_size": 4, "compile": True, "terms": ("image",), "vae": None} -> a command line.

    An option of None is left out.
    """
    words: list[str] = []
    for name, value in options.items():
        if value is None:
            continue
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return words


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])
