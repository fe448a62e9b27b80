"""One process at a time writes into a run's folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_NAME = ".lock"


class FolderInUseError(ValueError):
    """Another process writes into the run's folder."""


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Keep the folder to this process; the system gives it free when the process ends, however it ends.

    Raises FolderInUseError.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / _NAME, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise FolderInUseError(
            f"Another process is training into {out} right now. Wait for it or stop it, or give this run another --out."
        ) from error
    try:
        yield
    finally:
        lock.release()
