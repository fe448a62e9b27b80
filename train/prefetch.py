"""Steps' data, read ahead by threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Prefetch(Generic[Item]):
    """`prefetch[step]` is `read(step)`, with the `ahead` following steps being read meanwhile, a thread for each: what else is
    done at a time is up to `read`. Ask for steps in order."""

    def __init__(self, read: Callable[[int], Item], ahead: int = 2):
        self._read = read
        self._ahead = ahead
        self._pool = ThreadPoolExecutor(ahead + 1, thread_name_prefix="read-ahead")
        self._pending: dict[int, Future[Item]] = {}

    def __getitem__(self, step: int) -> Item:
        wanted = range(step, step + self._ahead + 1)
        self._pending = {i: self._pending.get(i) or self._pool.submit(self._read, i) for i in wanted}
        return self._pending[step].result()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
