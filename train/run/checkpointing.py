"""Checkpoints of a run: whole or not at all, the last N kept, read back on any number of ranks.

torch.distributed.checkpoint writes them: each rank what it alone keeps, and its part of what all have. A rank
reads what it needs, straight into the tensors that it trains. Ranks' parts of a tensor lie under one name, as
parts of it, so the number of ranks, and whether they share out the optimiser's state, may change from one
start of a run to the next. A checkpoint is copied to CPU memory and written from there while training goes
on, under another name; it is renamed when every rank is done: a killed run leaves at most a `.part` folder.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from .ranks import PATIENCE, Ranks
from .saved_metadata import SafeReader
from .state import Part, PartLoadPlanner, PartSavePlanner, State, bare, parts_of

logger = logging.getLogger(__name__)

_META = "run.json"
# One rank needs no process group, and each reads without the others. For good: checkpoints are written by another thread.
warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
_NAME = r"step-(\d{8,})"  # what else lies beside, a copy that somebody made, is none of the run's


class CheckpointWriteError(RuntimeError):
    """A checkpoint could not be written; those before it are untouched."""


class ResumeError(ValueError):
    """A checkpoint that does not belong to the run that found it, or cannot be read."""


class SavedState:
    """The tensors of one checkpoint, read when asked for; every rank for itself."""

    def __init__(self, folder: Path):
        self._reader = SafeReader(folder)
        self._folder = folder
        try:
            described = self._reader.read_metadata().state_dict_metadata
            entries = {name: entry for name, entry in described.items() if isinstance(entry, TensorStorageMetadata)}
            self._kinds = {name: (entry.properties.dtype, entry.size) for name, entry in entries.items()}
        except Exception as error:  # of a damaged pickle comes anything
            raise _unreadable(folder, error) from error

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """The tensors' shapes by name."""
        return {name: shape for name, (_, shape) in self._kinds.items()}

    def __getitem__(self, name: str) -> Tensor:
        """One tensor, in CPU memory."""
        return self.read([name])[name]

    def read(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Some tensors, in CPU memory; at once, since the checkpoint's description is read anew each time."""
        if missing := [name for name in names if name not in self._kinds]:
            raise ResumeError(f"The checkpoint {self._folder} was written by a run of another kind: it has no {missing[0]}.")
        found = {name: torch.empty(self._kinds[name][1], dtype=self._kinds[name][0]) for name in names}
        self._read({**found})
        return found

    def read_into(self, state: State, whole: str) -> None:
        """Overwrite the tensors of `state`, in place, wherever they are.

        Raises ResumeError, before anything is overwritten, unless each is there in the same shape and precision, and
        those below the prefix `whole` are all that the checkpoint has below it.
        """
        wrong = [name for name in self._kinds if name.startswith(whole + ".") and name not in state]
        wrong += [name for name, tensor in state.items() if self._kinds.get(name) != (tensor.dtype, tensor.shape)]
        if wrong:
            raise ResumeError(
                f"The checkpoint was written by a run of another model: {len(wrong)} tensors differ, among them {min(wrong)}. "
                "Use the configuration of that run, or another --out."
            )
        self._read(state)

    def _read(self, state: State) -> None:
        try:
            load({**bare(state)}, storage_reader=self._reader, planner=PartLoadPlanner(parts_of(state)), no_dist=True)
        # torch wraps what it met in a CheckpointException, which is a BaseException.
        except (Exception, CheckpointException) as error:
            raise _unreadable(self._folder, error) from error


def _unreadable(folder: Path, error: BaseException) -> ResumeError:
    return ResumeError(
        f"The checkpoint {folder} is damaged: {_cause(error)}. Delete that folder, and the same command goes on from the one "
        "before."
    )


def _cause(error: BaseException | None) -> str:
    """What went wrong, in a line: torch wraps what a rank met in a CheckpointException that prints its whole
    traceback."""
    if isinstance(error, CheckpointException):
        error = next((found[0] for found in error.failures.values()), error)
    if isinstance(error, OSError | ValueError | UnpicklingError) and str(error):
        return " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


class _Notes(dict[str, Any]):
    """What a checkpoint's run.json says; raises ResumeError where it is asked for what it lacks."""

    def __init__(self, folder: Path, notes: Mapping[str, Any]):
        super().__init__(notes)
        self._folder = folder

    def __reduce__(self) -> tuple[Any, ...]:  # ranks tell each other
        return _Notes, (self._folder, dict(self))

    def __missing__(self, name: str) -> Any:
        raise _unreadable(self._folder, ValueError(f"{_META} lacks {name}"))


def steps_in(folder: Path) -> list[int]:
    """Steps of the whole checkpoints in a run's `checkpoints/`, oldest first."""
    return sorted(int(match[1]) for path in folder.glob("step-*") if (match := re.fullmatch(_NAME, path.name)))


def checkpoint_at(folder: Path, step: int) -> Path:
    """Where a run's `checkpoints/` has that of a step."""
    return folder / f"step-{step:08d}"


class Checkpoints:
    """The checkpoints below `folder`, each named by the number of steps done."""

    def __init__(self, folder: Path, ranks: Ranks, keep_last: int):
        self.folder = folder
        self.ranks = ranks
        self.keep_last = keep_last
        self.newest: int | None = None
        """Step of the checkpoint that was begun or found last: the same on every rank."""
        self._pending: _Pending | None = None
        self._group: Any = None
        self._writers: tuple[frozenset[str], frozenset[str]] = frozenset(), frozenset()

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints, oldest first."""
        return steps_in(self.folder)

    def path(self, step: int) -> Path:
        return checkpoint_at(self.folder, step)

    def save(self, step: int, state: State, meta: Mapping[str, Any]) -> Path:
        """`begin` and `finish`: the checkpoint is there when this returns."""
        self.begin(step, state, meta)
        self.finish()
        return self.path(step)

    def begin(self, step: int, state: State, meta: Mapping[str, Any]) -> None:
        """Copy `state`, that of after `step` steps, and write the copy while the caller goes on; collective.

        A rank gives what it keeps; where several give a tensor of one name, it is the same, and one of them writes
        it. The checkpoint before is finished first. Raises CheckpointWriteError on every rank when a rank cannot
        write (a full disk): older checkpoints survive.
        """
        self.finish()
        part = self.path(step).with_suffix(".part")
        self._on_all_ranks(step, part, lambda: self._begin(part, {**meta, "step": step}))
        self._on_all_ranks(step, part, lambda: self._start(step, part, state))
        self.newest = step

    @property
    def writing(self) -> bool:
        """Whether this rank is at work on the checkpoint that was begun last."""
        return self._pending is not None and not self._pending.written.done()

    @property
    def unfinished(self) -> int | None:
        """Step of a checkpoint that was begun and that `finish` was not called for; the same on every rank."""
        return self._pending.step if self._pending else None

    def finish(self) -> None:
        """Wait for the checkpoint that was begun last, and give it its name; collective. Then delete all but the last N.

        Raises CheckpointWriteError, as above.
        """
        if self._pending is None:
            return
        step, part, written = self._pending
        self._pending = None
        self._on_all_ranks(step, part, lambda: written.result())
        self._on_all_ranks(step, part, lambda: self._finish(part))

    def _on_all_ranks(self, step: int, part: Path, stage: Callable[[], object]) -> None:
        failure = _failure_of(stage)
        # Every rank learns of it before the next collective, in which it would wait for the one that failed.
        if any(self.ranks.any(failure is not None)):
            self._pending = None
            if self.ranks.is_main:
                shutil.rmtree(part, ignore_errors=True)
            raise CheckpointWriteError(self._describe(step, failure)) from failure

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """Steps done and notes of the newest whole checkpoint, or None; leftovers of a killed run are removed.

        Collective: rank 0 looks, since ranks may see a shared disk differently for a while.
        """
        found = self.ranks.broadcast(self._look() if self.ranks.is_main else None)
        self.newest = found[0] if found else None
        return found

    def saved(self, step: int) -> SavedState:
        """The tensors of a checkpoint."""
        return SavedState(self.path(step))

    def _look(self) -> tuple[int, dict[str, Any]] | None:
        for part in self.folder.glob("step-*.part"):
            if re.fullmatch(_NAME, part.stem):  # not what people keep beside under names of their own
                shutil.rmtree(part, ignore_errors=True)
        steps = self.steps()
        if not steps:
            return None
        folder = self.path(steps[-1])
        try:
            meta = json.loads((folder / _META).read_bytes())
            if not isinstance(meta, dict) or not isinstance(meta.get("config", {}), dict):
                raise ValueError(f"{_META} holds no notes of a run")
            return steps[-1], _Notes(folder, meta)
        except (OSError, ValueError, RecursionError) as error:
            raise _unreadable(folder, error) from error

    def _begin(self, part: Path, meta: Mapping[str, Any]) -> None:
        if self.ranks.is_main:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            (part / _META).write_text(json.dumps(meta))

    def _start(self, step: int, part: Path, state: State) -> None:
        alone = self.ranks.world_size == 1
        if not alone and self._group is None:  # of its own: training's collectives go on beside, in another order on each rank
            self._group = dist.new_group(backend="gloo", timeout=PATIENCE)
        own = state if alone else self._own(state)
        writer = FileSystemWriter(part, overwrite=True)
        planner = PartSavePlanner(parts_of(own))
        written = async_save({**bare(own)}, storage_writer=writer, planner=planner, process_group=self._group, no_dist=alone)
        self._pending = _Pending(step, part, cast("Future[Any]", written))

    def _own(self, state: State) -> State:
        """What this rank writes: its parts, and of tensors that several ranks have whole, those that fall to it."""
        names, own = self._writers
        if names != state.keys():  # once: a run has the same tensors throughout
            held: list[dict[str, int]] = [{}] * self.ranks.world_size
            whole = {name: tensor.nbytes for name, tensor in state.items() if not isinstance(tensor, Part)}
            dist.all_gather_object(held, whole, group=self._group)
            own = frozenset(_deal_among_holders(held)[self.ranks.rank]) | parts_of(state).keys()
            self._writers = frozenset(state), own
        return {name: tensor for name, tensor in state.items() if name in own}

    def _finish(self, part: Path) -> None:
        if self.ranks.is_main:
            _sync(part / _META)
            _sync(part)
            part.replace(part.with_suffix(""))
            _sync(self.folder)
            for old in self.steps()[: -self.keep_last]:
                shutil.rmtree(self.path(old), ignore_errors=True)

    def _describe(self, step: int, failure: BaseException | None) -> str:
        kept = self.steps()
        survivor = f"The checkpoint of step {kept[-1]} is intact" if kept else "There is no earlier checkpoint"
        free = shutil.disk_usage(self.folder).free / 2**30
        cause = _cause(failure) if failure else "another rank failed"
        # Of a full disk torch says what it found only ("unexpected pos"); of these others, what it is.
        full = not any(words in cause.lower() for words in ("no such file", "permission", "read-only"))
        advice = "Free some space, or lower keep_last" if full else "Put that right"
        return (
            f"The checkpoint of step {step} could not be written below {self.folder} ({free:.1f} GiB free there): {cause}. "
            f"{survivor}. {advice}, and start the same command again to go on from there."
        )


class _Pending(NamedTuple):
    """A checkpoint that is being written."""

    step: int
    part: Path
    written: Future[Any]


def _deal_among_holders(held: list[dict[str, int]]) -> list[list[str]]:
    """The names that each rank writes, given the bytes that each holds: the largest first, to the holder that has
    least."""
    load = [0] * len(held)
    dealt: list[list[str]] = [[] for _ in held]
    sizes = {name: size for own in held for name, size in own.items()}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        rank = min((rank for rank, own in enumerate(held) if name in own), key=lambda rank: load[rank])
        load[rank] += sizes[name]
        dealt[rank].append(name)
    return dealt


def _failure_of(stage: Callable[[], object]) -> BaseException | None:
    try:
        stage()
    # torch wraps what a rank met in a CheckpointException, which is a BaseException.
    except (OSError, RuntimeError, CheckpointException) as error:
        return error
    return None


def _sync(path: Path) -> None:
    """Make a file's bytes, or a folder's names, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
