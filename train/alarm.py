"""One rank's exception ends all ranks: those that wait for it in a collective would else wait until its time-out."""

# torch documents its stores without listing them.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

_KEY = "failure"
_PAUSE = 0.5
"""Seconds between looks."""
_GRACE = 5.0
"""Seconds for a rank to notice by itself (gloo tells it of the closed connection), and to end in good order."""


class PeerError(ValueError):
    """Another rank failed, and this one cannot go on without it."""


@contextmanager
def fail_together(store: dist.Store, rank: int) -> Iterator[None]:
    """While it lasts, an exception on one rank ends every other: by a PeerError with the first one's message, or, if it sits in a
    collective that never returns, by printing that message and leaving with exit code 1. `store` is shared by the ranks.

    A process that is killed tells nobody: launchers see to that (torchrun ends the others; srun with --kill-on-bad-exit).
    """
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(store.clone(), rank, over), name="peers", daemon=True)
    watch.start()
    try:
        yield
    except Exception as error:
        first, message = _report(store, rank, str(error) or type(error).__name__)
        if first != rank:
            raise _peer_error(rank, first, message) from error
        raise
    finally:
        over.set()
        watch.join()


def _report(store: dist.Store, rank: int, message: str) -> tuple[int, str]:
    """Leave a message unless another rank was first; returns whose is there, and the message."""
    try:
        found = store.compare_set(_KEY, "", f"{rank} {message}").decode()
    except RuntimeError:  # the store went with the process that held it
        return rank, message
    first, _, text = found.partition(" ")
    if int(first) == rank:
        time.sleep(2 * _PAUSE)  # this process may hold the store, which the others read the message from
    return int(first), text


def _watch(store: dist.Store, rank: int, over: threading.Event) -> None:
    while not over.wait(_PAUSE):
        try:
            if not store.check([_KEY]):
                continue
            first, _, message = store.get(_KEY).decode().partition(" ")
        except RuntimeError:
            return
        if int(first) != rank and not over.wait(_GRACE):
            print(f"\n{_peer_error(rank, int(first), message)}", file=sys.stderr, flush=True)
            os._exit(1)
        return


def _peer_error(rank: int, first: int, message: str) -> PeerError:
    return PeerError(f"Rank {rank} stops, since rank {first} failed: {message}")
