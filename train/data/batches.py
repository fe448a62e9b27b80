"""From shards to batches: main tuples mixed with guided image-text pairs,
shuffled by seed, sliced by rank, resumed exactly.

The stream of samples is a pure function of the two sources, the guided fraction, the global batch and the
seed. Ranks and workers only divide it, so its whole state is one integer: the number of batches taken.

Lambda is met by every batch, not in expectation: n rows in a row hold lambda n guided ones, give or take one,
on every rank. Epochs leave no rest: the batch that ends one epoch of a source begins the next, so all ranks
always have as many rows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np
import torch

from .shards import Sample, ShardSource

logger = logging.getLogger(__name__)

ENDLESS = 1 << 60
"""Length of the sequence of samples: more than any run takes."""

Transform = Callable[[Sample, np.random.Generator], dict[str, Any]]
"""One sample to the named arrays, numbers and strings of one row of a
batch; draws randomness from the generator alone."""


class DataError(ValueError):
    """Training data that cannot be used as asked: what is wrong and what to do."""


@dataclass(frozen=True)
class ReadOptions:
    """How samples are read ahead; none of it changes what is read."""

    threads: int = 8
    """Threads of the training process that read and decode samples, where no other processes do."""
    processes: int = 0
    """Processes that make whole batches beside the training process; 0 leaves the work to its threads."""
    ahead: int = 2
    """Batches kept ready, per process."""


class TrainingData:
    """Endless batches of one rank. `iter(data)` goes on from where the state is; one iterator at a time.

    A batch is a dict of what `transform` returns, stacked (arrays and numbers to tensors [b, ...], strings to
    lists), and of `key` list[str], `identity` int64 [b] (-1 unknown), `has_face` bool [b] and `index` int64 [b]:
    the row of the source, guided rows counted after the main ones.
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
    ):
        """
        Args:
            guided: image-text pairs that take the place of main tuples, their faces left out (paper, section 3.3).
            guided_fraction: lambda, the part of every batch that is guided, in [0, 1). The paper does not give it.
            batch_size: the global batch, over all ranks; a rank gets batch_size / world_size rows.
            seed: orders the samples; each epoch of each source is shuffled anew.

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
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.step = 0
        self.epoch_steps = max(1, round(len(main) / ((1 - guided_fraction) * batch_size)))
        """Batches in which the main source is seen about once."""
        self._reading = reading or ReadOptions()
        order = _mixed_rows(len(main), len(guided) if guided else 0, guided_fraction, seed)
        share = _RankShare(order, batch_size, rank, world_size)
        load = _Load(main, guided, transform, seed)
        self._samples = grain.MapDataset.source(share).map(load)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._read_from(self.step):
            self.step += 1
            yield _to_tensors(batch)

    def state_dict(self) -> dict[str, int]:
        """The number of global batches taken: the same on every rank and for every number of ranks."""
        return {"step": self.step}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on after as many batches; iterators made before go on from there on their own."""
        self.step = int(state["step"])

    def _read_from(self, step: int) -> Iterator[dict[str, Any]]:
        rows, ahead, processes = self.batch_size // self.world_size, self._reading.ahead, self._reading.processes
        if processes:
            # Batched before it is divided: every worker makes whole batches, so their number changes none of them.
            batches = self._samples.batch(rows, batch_fn=_stack_rows)[step:]
            options = grain.ReadOptions(num_threads=ahead, prefetch_buffer_size=ahead)
            return iter(batches.to_iter_dataset(options).mp_prefetch(grain.MultiprocessingOptions(num_workers=processes)))
        threads = self._reading.threads
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, ahead * rows))
        return iter(self._samples[step * rows :].to_iter_dataset(options).batch(rows, batch_fn=_stack_rows))


def ordered_batches(
    source: ShardSource, rows: Sequence[int] | np.ndarray, batch_size: int, transform: Transform, threads: int = 8
) -> Iterator[dict[str, Any]]:
    """Some rows in their order, in batches of `TrainingData`'s form, read ahead; the last may be smaller.

    `has_face` is true for all of them unless `transform` says otherwise.
    """
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, 2 * batch_size))
    loaded = grain.MapDataset.source(_Places(rows)).map(_Load(source, None, transform, seed=0))
    for batch in loaded.to_iter_dataset(options).batch(batch_size, batch_fn=_stack_rows):
        yield _to_tensors(batch)


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
    if batch_size < world_size or batch_size % world_size:
        raise DataError(
            f"A global batch of {batch_size} cannot be dealt to {world_size} ranks: every rank needs as many rows. "
            f"Choose a multiple of {world_size}."
        )
    if not 0 <= rank < world_size:
        raise DataError(f"Rank {rank} is not among {world_size} ranks, which count from 0.")
    if not 0 <= fraction < 1:
        raise DataError(f"The guided fraction is {fraction}; it lies from 0 (no guided data) to under 1.")
    if (guided is None) != (fraction == 0):
        given = "no guided shards" if guided is None else "guided shards"
        raise DataError(f"There are {given} and a guided fraction of {fraction}. Give both, or neither.")


def _mixed_rows(main: int, guided: int, fraction: float, seed: int) -> grain.MapDataset:
    """The endless sequence of row numbers, guided ones counted after the `main` ones."""
    rows = grain.MapDataset.source(range(main)).seed(seed).shuffle().repeat()
    if not guided:
        return rows
    others = grain.MapDataset.source(range(main, main + guided)).seed(seed + 1).shuffle().repeat()
    return grain.MapDataset.mix([rows, others], weights=[1 - fraction, fraction])


class _RankShare:
    """The rows of one rank: of every global batch the rank-th block, each as
    (place in the global sequence, row number).

    Blocks, not a stride: `mix` interleaves in a fixed pattern, so that with lambda one half a stride of two would
    give one rank all the faces and the other none. Any block of b rows holds lambda b guided ones, give or take
    one.
    """

    def __init__(self, order: grain.MapDataset, batch_size: int, rank: int, world_size: int):
        self._order, self._batch_size = order, batch_size
        self._rows = batch_size // world_size
        self._first = rank * self._rows

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> tuple[int, int]:
        step, local = divmod(int(index), self._rows)
        place = step * self._batch_size + self._first + local
        row: Any = self._order[place]
        return place, int(row)


class _Load:
    """(place, row number) -> the row's entries of a batch. A class, so that worker processes can be given it."""

    def __init__(self, main: ShardSource, guided: ShardSource | None, transform: Transform, seed: int):
        self._main, self._guided, self._transform, self._seed = main, guided, transform, seed

    def __call__(self, drawn: tuple[int, int]) -> dict[str, Any]:
        place, row = drawn
        if row < len(self._main):
            sample = self._main[row]
        else:
            assert self._guided is not None
            pair = self._guided[row - len(self._main)]
            sample = Sample(pair.key, pair.image, None, pair.caption, {**pair.meta, "identity": -1})
        try:
            entries = self._transform(sample, np.random.default_rng((self._seed, place)))
        except ValueError as error:
            raise DataError(f"The sample {sample.key!r} (row {row}) cannot be used: {error}") from error
        return {
            "key": sample.key,
            "identity": sample.identity,
            "has_face": row < len(self._main),
            "index": row,
            **entries,
        }


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stack rows: arrays and numbers become tensors [b, ...], strings lists.

    Raises:
        DataError: an entry has another shape in one row than in the first.
    """
    return _to_tensors(_stack_rows(rows))


def _stack_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: _stack(name, [row[name] for row in rows], rows) for name in rows[0]}


def _stack(name: str, values: list[Any], rows: Sequence[Mapping[str, Any]]) -> list[str] | np.ndarray:
    if isinstance(values[0], str):
        return values
    arrays = [np.asarray(value) for value in values]
    usual = arrays[0].shape
    for array, row in zip(arrays, rows, strict=True):
        if array.shape != usual:
            raise DataError(
                f"The {name} of sample {row['key']!r} has shape {list(array.shape)}, others of the batch {list(usual)}."
            )
    return np.stack(arrays)


def _to_tensors(batch: Mapping[str, Any]) -> dict[str, Any]:
    # Only here: grain passes arrays between processes in shared memory, torch's own tensors by sockets that die with a worker.
    return {name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in batch.items()}
