"""A thread that makes the next items while the caller works with the last one."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
_PAUSE = 0.1
"""Seconds between looks at whether anybody still wants what is ready."""
_PATIENCE = 10.0
"""Seconds to wait for a thread that is in the middle of an item."""


class Ahead(Generic[Item]):
    """The items of an iterator, in order, taken by a thread of its own, `ready` of them before they are asked for.

    What the iterator raises is raised where its item would have come. The thread ends with `close`, with the last
    reference to this object, or with the process.
    """

    def __init__(self, items: Iterator[Item], ready: int = 1):
        self._queue: queue.Queue[tuple[str, Any]] = queue.Queue(max(1, ready))
        stop = threading.Event()
        thread = threading.Thread(target=_fill, args=(items, self._queue, stop), name="batches", daemon=True)
        self._close = weakref.finalize(self, _end, stop, thread)
        self._ended = False
        thread.start()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        if self._ended:
            raise StopIteration
        kind, value = self._queue.get()
        self._ended = kind != "item"
        if kind == "error":
            raise value
        if kind == "end":
            raise StopIteration
        return value

    def close(self) -> None:
        """End the thread; what it had made is dropped."""
        self._ended = True
        self._close()


def _fill(items: Iterator[Item], ready: queue.Queue[tuple[str, Any]], stop: threading.Event) -> None:
    try:
        for item in items:
            if not _put(("item", item), ready, stop):
                return
        _put(("end", None), ready, stop)
    except BaseException as error:
        _put(("error", error), ready, stop)


def _put(item: tuple[str, Any], ready: queue.Queue[tuple[str, Any]], stop: threading.Event) -> bool:
    while not stop.is_set():
        try:
            ready.put(item, timeout=_PAUSE)
            return True
        except queue.Full:
            continue
    return False


def _end(stop: threading.Event, thread: threading.Thread) -> None:
    stop.set()
    if thread is not threading.current_thread():  # whichever thread the last reference was dropped by
        thread.join(_PATIENCE)
