"""Checkpoints of a run: whole or not at all, the last N kept, read back on any number of ranks.

torch.distributed.checkpoint writes them: ranks share the work of writing replicated state, and any number of ranks can read it.
A checkpoint is written under another name and renamed when every rank is done, so a killed run leaves at most a `.part` folder.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer

from .distributed import Ranks

logger = logging.getLogger(__name__)

State = dict[str, Tensor]
_META = "run.json"


class CheckpointWriteError(RuntimeError):
    """A checkpoint could not be written; those before it are untouched."""


class ResumeError(ValueError):
    """A checkpoint that does not belong to the run that found it."""


class Checkpoints:
    """The checkpoints below `folder`, each named by the number of steps done."""

    def __init__(self, folder: Path, ranks: Ranks, keep_last: int):
        self.folder = folder
        self.ranks = ranks
        self.keep_last = keep_last

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints, oldest first."""
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*") if path.suffix != ".part")

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def save(self, step: int, state: State, meta: Mapping[str, Any]) -> Path:
        """Write `state` after `step` steps; collective. Then delete all but the last N.

        Raises CheckpointWriteError on every rank when a rank cannot write (a full disk): older checkpoints survive.
        """
        final = self.path(step)
        part = final.with_suffix(".part")
        if final.is_dir():
            return final
        failure = self._write(part, state, {**meta, "step": step})
        if any(self.ranks.any(failure is not None)):
            if self.ranks.is_main:
                shutil.rmtree(part, ignore_errors=True)
            raise CheckpointWriteError(self._describe(step, failure)) from failure
        if self.ranks.is_main:
            part.replace(final)
            _sync(self.folder)
            for old in self.steps()[: -self.keep_last]:
                shutil.rmtree(self.path(old), ignore_errors=True)
        self.ranks.barrier()
        return final

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """Steps done and notes of the newest whole checkpoint, or None; leftovers of a killed run are removed."""
        if self.ranks.is_main:
            for part in self.folder.glob("step-*.part"):
                shutil.rmtree(part, ignore_errors=True)
        self.ranks.barrier()
        steps = self.steps()
        return (steps[-1], json.loads((self.path(steps[-1]) / _META).read_text())) if steps else None

    def load(self, step: int) -> State:
        """Every tensor of a checkpoint, in CPU memory; collective, on any number of ranks."""
        reader = FileSystemReader(self.path(step))
        described = reader.read_metadata().state_dict_metadata
        state = {
            name: torch.empty(entry.size, dtype=entry.properties.dtype)
            for name, entry in described.items()
            if isinstance(entry, TensorStorageMetadata)
        }
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is", UserWarning)
            load(state, storage_reader=reader, no_dist=self.ranks.world == 1)
        return state

    def _write(self, part: Path, state: State, meta: Mapping[str, Any]) -> BaseException | None:
        try:
            if self.ranks.is_main:
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir(parents=True)
                (part / _META).write_text(json.dumps(meta))
            self.ranks.barrier()
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "torch.distributed is", UserWarning)  # one rank needs no process group
                save(state, storage_writer=FileSystemWriter(part, overwrite=True), no_dist=self.ranks.world == 1)
        # torch wraps what a rank met in a CheckpointException, which is a BaseException.
        except (OSError, RuntimeError, CheckpointException) as error:
            return error
        return None

    def _describe(self, step: int, failure: BaseException | None) -> str:
        kept = self.steps()
        survivor = f"The checkpoint of step {kept[-1]} is intact" if kept else "There is no earlier checkpoint"
        free = shutil.disk_usage(self.folder).free / 2**30
        cause = str(failure) if failure else "another rank failed"
        return (
            f"The checkpoint of step {step} could not be written below {self.folder} ({free:.1f} GiB free there): {cause}\n"
            f"{survivor}. Free some space, or lower keep_last, and start the same command again to go on from there."
        )


def model_state(prefix: str, parameters: Mapping[str, Tensor]) -> State:
    """Named tensors under a prefix."""
    return {f"{prefix}.{name}": tensor.detach() for name, tensor in parameters.items()}


def load_model_state(prefix: str, parameters: Mapping[str, Tensor], state: State) -> None:
    """Inverse of `model_state`, in place. Raises ResumeError unless names, shapes and precisions are equal."""
    found = {name.removeprefix(prefix + "."): tensor for name, tensor in state.items() if name.startswith(prefix + ".")}
    wrong = [n for n in parameters.keys() | found.keys() if n not in found or n not in parameters]
    wrong = wrong or [n for n in parameters if _kind(parameters[n]) != _kind(found[n])]
    if wrong:
        raise ResumeError(
            f"The checkpoint was written by a run of another model: {len(wrong)} tensors of {prefix} differ, among them "
            f"{min(wrong)}. Use the configuration of that run, or another --out."
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(found[name])


def optimizer_state(optimizer: Optimizer, names: Mapping[str, nn.Parameter]) -> State:
    """An optimiser's tensors, by parameter name and kind."""
    return {
        f"optimizer.{name}.{kind}": torch.as_tensor(value)
        for name, parameter in names.items()
        for kind, value in optimizer.state[parameter].items()
    }


def load_optimizer_state(optimizer: Optimizer, names: Mapping[str, nn.Parameter], state: State) -> None:
    """Inverse of `optimizer_state`; a moment keeps the precision that it was saved in."""
    for name, parameter in names.items():
        stem = f"optimizer.{name}."
        kinds = [key.removeprefix(stem) for key in state if key.startswith(stem) and "." not in key.removeprefix(stem)]
        tensors = {kind: state[stem + kind] for kind in kinds}
        # Step counters stay on the CPU, where torch's optimisers keep them.
        optimizer.state[parameter] = {k: t.to(parameter.device) if t.ndim else t for k, t in tensors.items()}


def _kind(tensor: Tensor) -> tuple[torch.dtype, torch.Size]:
    return tensor.dtype, tensor.shape


def _sync(folder: Path) -> None:
    """Make a rename durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
