"""What a step of finetuning is given: rows of one aspect bucket, their latents, and what is dropped of their
conditions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..cache.features import FeatureCache
from ..data.batches import DataError
from ..data.course import Course
from ..data.decode import face_pixels
from ..data.shard_index import ShardError
from ..data.shards import Sample, ShardSource
from ..data.stacking import stack_rows
from ..data.tolerance import first_usable
from ..run.ranks import Ranks
from .buckets import BucketBatches
from .config import FinetuneConfig
from .latents import LatentSource
from .rows import Draws, Rows


class _Read(NamedTuple):
    """A row that was read: what its latents are made from with its size conditions, and its face where faces are
    wanted."""

    row: int
    sample: Sample
    picture: Tensor
    time_ids: tuple[int, ...]
    face: np.ndarray | None
    has_face: bool
    unusable: list[tuple[str, str]]
    """The key and the fault of each sample that it stands in for."""


class _Stretch(NamedTuple):
    """Steps of one batch size and resolution, from `first` on."""

    first: int
    batches: BucketBatches
    latents: LatentSource


class RowReader:
    """`reader(step)` -> this rank's rows of the step's global batch, `config.workers` of them read at a time.

    Threads may share it. With `remember_conditions`, and latents and features from caches, a row is read once and
    kept.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        ranks: Ranks,
        source: ShardSource,
        latents: LatentSource | Sequence[tuple[int, LatentSource]],
        faces: bool,
        features: FeatureCache | None = None,
        held_out: np.ndarray | None = None,
    ):
        """
        Args:
            latents: where they come from, or several places, each with the step from which on it serves, the first with
                0.
            features: the cached ones, to be read with the rows they belong to.
            held_out: bool [N], the rows that no batch ever has.
        """
        self._config = config
        self._ranks = ranks
        self._source = source
        self._latents = list(latents) if isinstance(latents, Sequence) else [(0, latents)]
        kept_out = np.zeros(len(source), dtype=bool) if held_out is None else held_out
        self._buckets = {each: np.where(kept_out, -1, each.buckets()) for _, each in self._latents}
        self._faces = faces
        self._features = None if config.remember_conditions else features  # remembered conditions ask for theirs seldom
        self.count = len(source)
        self._keeps = config.remember_conditions and config.latents is not None and not faces
        self._kept: dict[tuple[LatentSource, int], _Read] = {}
        self._lock = threading.Lock()  # batches keep the order of the epoch they are in
        self._pool = ThreadPoolExecutor(max(config.workers, 1), thread_name_prefix="rows")
        self._pin = ranks.device.type == "cuda"
        self.follow(config.course)

    def follow(self, course: Course) -> None:
        """Deal batches of these sizes from now on. Raises ValueError for those that cannot be dealt to the ranks."""
        for _, batch_size in course.changes:
            if batch_size % self._ranks.world_size:
                raise ValueError(
                    f"A global batch of {batch_size} cannot be dealt to {self._ranks.world_size} ranks: every rank needs as many "
                    f"rows. Choose a multiple of {self._ranks.world_size}."
                )
        stretches: list[_Stretch] = []
        for step in sorted({step for step, _ in (*course.changes, *self._latents)}):
            latents = next(source for first, source in reversed(self._latents) if first <= step)
            before = (stretches[-1].batches, step - stretches[-1].first) if stretches else None
            batches = BucketBatches(self._buckets[latents], course.batch_size(step), self._config.seed, before)
            stretches.append(_Stretch(step, batches, latents))
        self._stretches = stretches

    def __call__(self, step: int) -> Rows:
        """Raises DataError, naming the sample, for one that cannot be used; with `tolerate`, for more in a row than
        that."""
        first, batches, latents = next(stretch for stretch in reversed(self._stretches) if stretch.first <= step)
        share = batches.batch_size // self._ranks.world_size
        own = range(self._ranks.rank * share, (self._ranks.rank + 1) * share)
        with self._lock:
            bucket, places = batches.places(step - first)
            index = [batches.row(bucket, place) for place in places[own.start : own.stop]]
        others = [self._following(batches, bucket, place) for place in places[own.start : own.stop]]
        at_hand = self._kept.keys() >= {(latents, row) for row in index}  # a thread for each would take longer than the rows
        found = list((map if at_hand else self._pool.map)(partial(self._usable, latents), index, others))
        return self._together(found, [Draws.of(self._config, step, place) for place in own], pictures=True)

    def without_pictures(self, index: list[int]) -> Rows:
        """Any rows, for their conditions. Raises DataError, as above; with `tolerate` words and face of what cannot
        be read are left empty, since no step will ask for that row."""
        return self._together(list(self._pool.map(self._bare, index)), [], pictures=False)

    def _together(self, found: list[_Read], draws: list[Draws], pictures: bool) -> Rows:
        index = [read.row for read in found]
        tensors = stack_rows([self._entries(read, pictures) for read in found], self._pin)
        features = self._features.read(torch.tensor(index)) if self._features and pictures else None
        return Rows(
            index=index,
            key=tensors["key"],
            caption=[read.sample.caption for read in found],
            has_face=tensors["has_face"],
            faces=tensors.get("face"),
            pictures=tensors.get("picture", torch.empty(0)),
            time_ids=tensors.get("time_ids", torch.empty(0)),
            draws=draws,
            features=features and {name: tensor.pin_memory() if self._pin else tensor for name, tensor in features.items()},
            unusable=[read.unusable for read in found],
        )

    def _following(self, batches: BucketBatches, bucket: int, place: int) -> Iterator[int]:
        """The rows after a place in its bucket's order."""
        for each in count(place + 1):
            with self._lock:
                row = batches.row(bucket, each)
            yield row

    def _usable(self, latents: LatentSource, row: int, others: Iterator[int]) -> _Read:
        """The row, or the first of the others that can be used, as long as `tolerate` allows."""
        read = partial(self._remembered, latents)
        found, unusable = first_usable(read, row, others, self._config.tolerate, self._source.key)
        return found._replace(unusable=unusable) if unusable else found

    def _remembered(self, latents: LatentSource, row: int) -> _Read:
        """What `_read` gives, from memory where it was read before and is to be kept."""
        if found := self._kept.get((latents, row)):
            return found
        found = self._read(row, latents)
        if self._keeps:
            self._kept[latents, row] = found
        return found

    def _bare(self, row: int) -> _Read:
        """A row without its picture."""
        try:
            return self._read(row)
        except (DataError, ShardError):
            if not self._config.tolerate:
                raise
            blank = Sample(self._source.key(row), b"", None, "")
            return _Read(row, blank, torch.empty(0), (), face_pixels(None) if self._faces else None, False, [])

    def _read(self, row: int, latents: LatentSource | None = None) -> _Read:
        """A row, without its picture unless there are latents to make of it."""
        try:
            sample = self._source[row]
            if not sample.caption.strip():
                raise ValueError("its caption is missing. Add one, or leave the sample out")
            face = face_pixels(sample.face) if self._faces else None
            read, time_ids = latents.read(row, sample) if latents else (torch.empty(0), ())
            # By the index: where features are cached, the crop itself is not read.
            return _Read(row, sample, read, time_ids, face, self._source.has(row, "face"), [])
        except ShardError:
            raise  # it names the sample itself
        except (ValueError, OSError) as error:
            raise DataError(f"The sample {self._source.key(row)!r} (row {row}) cannot be used: {error}") from error

    @staticmethod
    def _entries(read: _Read, pictures: bool) -> dict[str, object]:
        """What is stacked of a row."""
        entries: dict[str, object] = {"key": read.sample.key, "has_face": read.has_face}
        if read.face is not None:
            entries["face"] = read.face
        if pictures:
            entries |= {"picture": read.picture.numpy(), "time_ids": np.array(read.time_ids)}
        return entries


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
