"""Starts training commands, and groups of ranks, for tests: python commands.py, with one request per line of its
input and one answer per line.

- {"start": MODULE, "arguments": [...], "environment": {...}, "output": FILE, "file_limit": BYTES or null}
  -> its process id
- {"ranks": [arguments of ranks.py], "output": FILE} -> its process id
- {"poll": PID} -> its exit code, negative for a signal, or null while it runs

Modules are imported once, and each command and group is a fork (on Linux): importing them takes longer than
most runs.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

LATER = {
    "train.pretrain": ("torch._dynamo", "open_clip"),
    "train.finetune_sdxl": (
        "torch._dynamo",
        "open_clip",
        "diffusers.models.unets.unet_2d_condition",
        "diffusers.models.autoencoders",
    ),
    "train.evaluate": ("faceclip.metrics.clip_scores", "open_clip"),
}
"""What commands import only once they run."""


def serve() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        answer = _poll(request["poll"]) if "poll" in request else _group(request) if "ranks" in request else _start(request)
        print(json.dumps(answer), flush=True)


def _start(request: dict[str, Any]) -> int:
    environment = {**os.environ, **request["environment"]}
    if sys.platform != "linux":
        with Path(request["output"]).open("ab") as output:
            command = [sys.executable, "-m", request["start"], *request["arguments"]]
            limit = None if request["file_limit"] is None else lambda: _limit(request["file_limit"])
            return subprocess.Popen(command, stdout=output, stderr=output, env=environment, preexec_fn=limit).pid
    for module in (f"{request['start']}.command", *LATER[request["start"]]):
        importlib.import_module(module)
    child = os.fork()
    if not child:
        _become(request, environment)
    return child


def _group(request: dict[str, Any]) -> int:
    if sys.platform != "linux":
        with Path(request["output"]).open("ab") as output:
            command = [sys.executable, Path(__file__).with_name("ranks.py"), *request["ranks"]]
            return subprocess.Popen(command, stdout=output, stderr=output).pid
    ranks = importlib.import_module("ranks")
    child = os.fork()
    if not child:
        _speak_to(request["output"])
        *names, world = request["ranks"]
        sys.exit(ranks.main(*names, int(world)))
    return child


def _speak_to(path: str) -> None:
    """Hear nothing, and write all output to a file."""
    output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)


def _become(request: dict[str, Any], environment: dict[str, str]) -> None:
    """Be the command, to the end of the process."""
    _speak_to(request["output"])
    os.environ.update(environment)
    if request["file_limit"] is not None:
        _limit(request["file_limit"])
    sys.exit(importlib.import_module(f"{request['start']}.command").main(request["arguments"]))


def _limit(size: int) -> None:
    """Let no file grow beyond `size` bytes: writing then fails as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _poll(pid: int) -> int | None:
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


if __name__ == "__main__":
    serve()
