"""From shards to batches: main tuples mixed with guided image-text pairs, shuffled by seed, sliced by rank,
resumed exactly.

The stream of samples is a pure function of the two sources, the guided fraction, the global batches' sizes
and the seed. Ranks and workers only divide it, so its whole state is one integer: the number of batches
taken.

Lambda is met by every batch, not in expectation: n rows in a row hold lambda n guided ones, give or take one,
on every rank. Epochs leave no rest: the batch that ends one epoch of a source begins the next, so all ranks
always have as many rows.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, count, islice
from typing import Any

import numpy as np
from torch import Tensor

from .ahead import Ahead
from .course import Course
from .order import RankShare, following, mixed_rows
from .quiet_grain import grain
from .shard_index import ShardError
from .shards import Sample, ShardSource
from .stacking import DataError, collate, join_parts, part_of, stack_rows
from .tolerance import first_usable
from .workers import end_with_parent

logger = logging.getLogger(__name__)

Transform = Callable[[Sample, np.random.Generator], dict[str, Any]]
"""One sample to the named arrays, numbers and strings of one row of a batch; draws randomness from the
generator alone."""
Beside = Callable[[Tensor], Mapping[str, Tensor]]
"""Row numbers int64 [b] to what else a batch is to hold of them, each [b, ...]: what a cache keeps."""
LARGEST_PART = 64
"""Rows that a reading process stacks and sends at once."""
TOGETHER = 8
"""Rows that a thread reads at once."""


@dataclass(frozen=True)
class ReadOptions:
    """How samples are read ahead; none of it changes what is read."""

    threads: int = 8
    """Threads of the training process that read and decode samples, where no other processes do."""
    processes: int = 0
    """Processes that read and decode beside the training process; 0 leaves the work to its threads."""
    ahead: int = 2
    """Batches kept ready."""
    pin: bool = False
    """Keep batches in page-locked memory, which a GPU reads while it computes. Needs a GPU."""


class TrainingData:
    """Endless batches of one rank. `iter(data)` goes on from where the state is; one iterator at a time.

    A batch is a dict of what `transform` returns, stacked (arrays and numbers to tensors [b, ...], strings to
    lists), and of `key` list[str], `identity` int64 [b] (-1 unknown), `has_face` bool [b] and `index` int64 [b]:
    the row of the source, guided rows counted after the main ones. A thread makes batches ahead; the state is
    that of batches taken, not made.

    With `tolerate`, `unusable` list[str] is among them: for each row the samples, as JSON [[key, what is wrong],
    ...], in whose place it stands.
    """

    def __init__(
        self,
        main: ShardSource,
        guided: ShardSource | None,
        guided_fraction: float,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
        transform: Transform,
        reading: ReadOptions | None = None,
        beside: Beside | None = None,
        tolerate: int = 0,
    ):
        """
        Args:
            guided: image-text pairs that take the place of main tuples, their faces left out (paper, section 3.3).
            guided_fraction: lambda, the part of every batch that is guided, in [0, 1). The paper does not give it.
            batch_size: the global batch, over all ranks; a rank gets batch_size / world_size rows.
            seed: orders the samples; each epoch of each source is shuffled anew.
            beside: called on reading threads, for several batches at a time.
            tolerate: a sample that cannot be used is replaced by the next one of the order that can, of its kind. So many
                in a row at most; who trains counts them all.

        Raises:
            DataError: the batch does not divide by the ranks, lambda and the guided source contradict each other, or main
                samples have no face.
        """
        _check(guided, guided_fraction, batch_size, rank, world_size)
        if without_face := main.missing("face"):
            raise DataError(
                f"{without_face:,} of {len(main):,} samples of the main shards have no face. Give them as guided shards, or "
                "prepare them with face detection."
            )
        self.rank, self.world_size = rank, world_size
        self.step = 0
        self.epoch_steps = max(1, round(len(main) / ((1 - guided_fraction) * batch_size)))
        """Batches in which the main source is seen about once."""
        self._reading = reading or ReadOptions()
        self._beside = beside
        self._order = mixed_rows(len(main), len(guided) if guided else 0, guided_fraction, seed)
        self._load = _Load(main, guided, transform, seed, self._order, tolerate)
        self.follow(Course.of(batch_size))

    def follow(self, course: Course) -> None:
        """Deal batches of these sizes from now on; iterators made before do not know. Raises DataError as above."""
        for _, batch_size in course.changes:
            _check_batch(batch_size, self.world_size)
        self.course = course

    def __iter__(self) -> Iterator[dict[str, Any]]:
        ahead = Ahead(self._made(self.step), self._reading.ahead)
        try:
            for batch in ahead:
                self.step += 1
                yield batch
        finally:
            ahead.close()

    def state_dict(self) -> dict[str, int]:
        """The number of global batches taken: the same on every rank and for every number of ranks."""
        return {"step": self.step}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on after as many batches; iterators made before go on from there on their own."""
        self.step = int(state["step"])

    def _made(self, step: int) -> Iterator[dict[str, Any]]:
        """Whole batches from a step's on; what lies beside them is read for several at once, since a shared disk is
        far away."""
        stacked = self._stacked(step)
        if self._beside is None:
            yield from stacked
            return
        with ThreadPoolExecutor(self._reading.ahead + 1, thread_name_prefix="cache") as readers:
            waiting: deque[Future[dict[str, Any]]] = deque()
            for batch in stacked:
                waiting.append(readers.submit(self._completed, batch))
                if len(waiting) > self._reading.ahead:
                    yield waiting.popleft().result()

    def _completed(self, batch: dict[str, Any]) -> dict[str, Any]:
        assert self._beside
        found = self._beside(batch["index"])
        return {**batch, **{name: tensor.pin_memory() if self._reading.pin else tensor for name, tensor in found.items()}}

    def _stacked(self, step: int) -> Iterator[dict[str, Any]]:
        sizes = (self.course.batch_size(at) // self.world_size for at in count(step))
        first, reading = self.course.rows_before(step) // self.world_size, self._reading
        share = RankShare(self._order, self.course, self.rank, self.world_size)
        samples = grain.MapDataset.source(share).map(self._load)[first:]
        of_rank = [batch_size // self.world_size for _, batch_size in self.course.changes]
        if reading.processes:
            # Parts are of one size: the largest that all batches are made of.
            rows = _part_size(of_rank)
            parts = samples.batch(rows, batch_fn=part_of).to_iter_dataset(grain.ReadOptions(1, prefetch_buffer_size=1))
            options = grain.MultiprocessingOptions(reading.processes, per_worker_buffer_size=2)
            sent = iter(parts.mp_prefetch(options, _become_reader))
            yield from (join_parts(list(islice(sent, size // rows)), reading.pin) for size in sizes)
            return
        # Some rows at a time: to hand rows to threads and back one by one takes longer than to read cached ones.
        threads, together = reading.threads, _part_size(of_rank, TOGETHER)
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, 4 * threads // together))
        groups: grain.MapDataset = samples.batch(together, batch_fn=list)
        rows = chain.from_iterable(iter(groups.to_iter_dataset(options)))
        yield from (stack_rows(list(islice(rows, size)), reading.pin) for size in sizes)


def _become_reader(number: int, of: int) -> None:
    """grain's would wait for ever to give their rows to a training that was killed."""
    end_with_parent()


def _part_size(batches: Sequence[int], most: int = LARGEST_PART) -> int:
    """The largest number of rows, `most` at most, that divides them all."""
    return max(rows for rows in range(1, most + 1) if all(batch % rows == 0 for batch in batches))


def ordered_batches(
    source: ShardSource, rows: Sequence[int] | np.ndarray, batch_size: int, transform: Transform, threads: int = 8
) -> Iterator[dict[str, Any]]:
    """Some rows in their order, in batches of `TrainingData`'s form, read ahead; the last may be smaller.

    `has_face` is true for all of them unless `transform` says otherwise.
    """
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, 2 * batch_size))
    loaded = iter(grain.MapDataset.source(_Places(rows)).map(_Load(source, None, transform, seed=0)).to_iter_dataset(options))
    while some := list(islice(loaded, batch_size)):
        yield collate(some)


class _Places:
    """Row numbers as `_Load` takes them, each its own place; made one by one, since there may be tens of millions."""

    def __init__(self, rows: Sequence[int] | np.ndarray):
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[int, int]:
        row = int(self._rows[int(index)])
        return row, row

    def __repr__(self) -> str:
        return f"_Places({len(self)} rows)"  # grain names its steps by repr


def warn_of_few(samples: int, batch_size: int) -> None:
    """Log a warning where a batch is larger than the data."""
    if batch_size > samples:
        logger.warning(
            "The global batch of %d rows is larger than the data, %d samples: every batch holds some of them more than once, and "
            "a contrastive loss takes them for different ones.",
            batch_size,
            samples,
        )


def _check(guided: ShardSource | None, fraction: float, batch_size: int, rank: int, world_size: int) -> None:
    _check_batch(batch_size, world_size)
    if not 0 <= rank < world_size:
        raise DataError(f"Rank {rank} is not among {world_size} ranks, which count from 0.")
    if not 0 <= fraction < 1:
        raise DataError(f"The guided fraction is {fraction}; it lies from 0 (no guided data) to under 1.")
    if (guided is None) != (fraction == 0):
        given = "no guided shards" if guided is None else "guided shards"
        raise DataError(f"There are {given} and a guided fraction of {fraction}. Give both, or neither.")


def _check_batch(batch_size: int, world_size: int) -> None:
    if batch_size < world_size or batch_size % world_size:
        raise DataError(
            f"A global batch of {batch_size} cannot be dealt to {world_size} ranks: every rank needs as many rows. "
            f"Choose a multiple of {world_size}."
        )


class _Load:
    """(place, row number) -> the row's entries of a batch. A class, so that worker processes can be given it."""

    def __init__(
        self,
        main: ShardSource,
        guided: ShardSource | None,
        transform: Transform,
        seed: int,
        order: grain.MapDataset | None = None,
        tolerate: int = 0,
    ):
        self._main, self._guided, self._transform, self._seed = main, guided, transform, seed
        self._order, self._tolerate = order, tolerate

    def __call__(self, drawn: tuple[int, int]) -> dict[str, Any]:
        place, row = drawn
        if not self._tolerate:
            return self._entries(place, row)
        assert self._order is not None
        others = following(self._order, place, len(self._main))
        entries, unusable = first_usable(partial(self._entries, place), row, others, self._tolerate, self._key)
        return {**entries, "unusable": json.dumps(unusable)}

    def _entries(self, place: int, row: int) -> dict[str, Any]:
        try:
            sample = self._sample(row)
            entries = self._transform(sample, np.random.default_rng((self._seed, place)))
            identity = sample.identity
        except ShardError:
            raise  # it names the sample itself
        except (ValueError, OSError) as error:
            raise DataError(f"The sample {self._key(row)!r} (row {row}) cannot be used: {error}") from error
        return {"key": sample.key, "identity": identity, "has_face": row < len(self._main), "index": row, **entries}

    def _sample(self, row: int) -> Sample:
        if row < len(self._main):
            return self._main[row]
        assert self._guided is not None
        pair = self._guided[row - len(self._main)]
        return Sample(pair.key, pair.image, None, pair.caption, {**pair.meta, "identity": -1})

    def _key(self, row: int) -> str:
        source, local = (self._main, row) if row < len(self._main) else (self._guided, row - len(self._main))
        assert source is not None
        return source.key(local)


__all__ = ["DataError", "ReadOptions", "TrainingData", "collate", "ordered_batches", "warn_of_few"]
