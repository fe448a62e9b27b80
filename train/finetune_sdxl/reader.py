"""What a step of finetuning is given: rows of one aspect bucket, their
latents, and what is dropped of their conditions."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..data.batches import DataError
from ..data.decode import decode_face
from ..data.shards import Sample, ShardSource
from ..run.ranks import Ranks
from .buckets import BucketBatches
from .config import FinetuneConfig
from .latents import LatentSource
from .rows import Draws, Rows

_Read = tuple[Sample, tuple[Tensor, tuple[int, ...]], np.ndarray | None, bool]
"""A row's sample, what its latents are made from with its size conditions,
its face where faces are wanted, and whether it has one."""
_NO_PICTURE = (torch.empty(0), ())


class RowReader:
    """`reader(step)` -> this rank's rows of the step's global batch, `config.workers` of them read at a time.

    Threads may share it. With `remember_conditions`, and latents and
    features from caches, a row is read once and kept.
    """

    def __init__(self, config: FinetuneConfig, ranks: Ranks, source: ShardSource, latents: LatentSource, faces: bool):
        if config.batch_size % ranks.world_size:
            raise ValueError(
                f"A global batch of {config.batch_size} cannot be dealt to {ranks.world_size} ranks: every rank needs as many "
                f"rows. Choose a multiple of {ranks.world_size}."
            )
        self._config = config
        self._source = source
        self._latents = latents
        self._faces = faces
        self._batches = BucketBatches(latents.buckets(), config.batch_size, config.seed)
        share = config.batch_size // ranks.world_size
        self._places = range(ranks.rank * share, (ranks.rank + 1) * share)
        self.count = len(source)
        self._keeps = config.remember_conditions and config.latents is not None and not faces
        self._kept: dict[int, _Read] = {}
        self._lock = threading.Lock()  # batches keep the order of the epoch they are in
        self._pool = ThreadPoolExecutor(max(config.workers, 1), thread_name_prefix="rows")

    def __call__(self, step: int) -> Rows:
        """Raises DataError, naming the sample, for one that cannot be used."""
        with self._lock:
            index = [int(row) for row in self._batches.batch(step)[self._places.start : self._places.stop]]
        return self.rows(index, [Draws.of(self._config, step, place) for place in self._places])

    def rows(self, index: list[int], draws: list[Draws], pictures: bool = True) -> Rows:
        """Any rows, all of one bucket unless they are read without pictures. Raises DataError, as above."""
        at_hand = pictures and self._kept.keys() >= set(index)  # a thread for each row would take longer than the rows
        found = (map if at_hand else self._pool.map)(self._remembered if pictures else self._read_condition, index)
        samples, read, faces, has_face = zip(*found, strict=True)
        return Rows(
            index=index,
            key=[sample.key for sample in samples],
            caption=[sample.caption for sample in samples],
            has_face=torch.tensor(has_face),
            faces=torch.from_numpy(np.stack(faces)) if self._faces else None,
            pictures=torch.stack([picture for picture, _ in read]) if pictures else torch.empty(0),
            time_ids=torch.tensor([ids for _, ids in read]) if pictures else torch.empty(0),
            draws=draws,
        )

    def _remembered(self, row: int) -> _Read:
        """What `_read` gives, from memory where it was read before and is to be kept."""
        if found := self._kept.get(row):
            return found
        found = self._read(row)
        if self._keeps:
            self._kept[row] = found
        return found

    def _read_condition(self, row: int) -> _Read:
        return self._read(row, picture=False)

    def _read(self, row: int, picture: bool = True) -> _Read:
        sample = self._source[row]
        try:
            if not sample.caption.strip():
                raise ValueError("its caption is missing. Add one, or leave the sample out")
            face = decode_face(sample.face) if self._faces else None
            # By the index: where features are cached, the crop itself is not read.
            read = self._latents.read(row, sample) if picture else _NO_PICTURE
            return sample, read, face, self._source.has(row, "face")
        except ValueError as error:
            raise DataError(f"The sample {sample.key!r} (row {row}) cannot be used: {error}") from error


Item = TypeVar("Item")


class Prefetch(Generic[Item]):
    """`prefetch[step]` is `read(step)`, with the `ahead` following steps being read meanwhile, a thread for each:
    what else is done at a time is up to `read`. Ask for steps in order."""

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
