"""The rows of a step of finetuning, and what is random about them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .config import FinetuneConfig
from .diffusion import TIMESTEPS


@dataclass(frozen=True, eq=False)
class Rows:
    """This rank's b rows of a global batch, all of one bucket, on the CPU.

    pictures: what `LatentSource.encode` takes, [b, ...]. faces: uint8 [b, 3, 448, 448], or None where features
    are cached. time_ids: [b, 6] SDXL's size conditions. draws: what is random about each row. features: the
    cached ones by name, each [b, ...], where they were read ahead. unusable: for each row, the key and the fault
    of each sample that it stands in for.
    """

    index: list[int]
    key: list[str]
    caption: list[str]
    has_face: Tensor
    faces: Tensor | None
    pictures: Tensor
    time_ids: Tensor
    draws: list[Draws]
    features: dict[str, Tensor] | None = None
    unusable: list[list[tuple[str, str]]] | None = None

    def part(self, part: slice) -> Rows:
        """Some of the rows."""
        columns: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return Rows(**{name: _part(column, part) for name, column in columns.items()})


def _part(column: Any, part: slice) -> Any:
    if isinstance(column, dict):
        return {name: values[part] for name, values in column.items()}
    return None if column is None else column[part]


@dataclass(frozen=True)
class Draws:
    """What is random about one row of one step: a function of the seed, the step and its place in the global
    batch alone.

    So neither the number of ranks nor a resumption changes it, and no two rows share their noise.
    """

    timestep: int
    drop_text: bool
    drop_face: bool
    seed: int

    @staticmethod
    def of(config: FinetuneConfig, step: int, place: int) -> Draws:
        """Condition dropout is drawn at every step, whatever is cached: text alone, face alone, or both."""
        random = np.random.default_rng([config.seed, step, place])
        chance = random.random()
        both = chance < config.drop_both
        text = config.drop_both <= chance < config.drop_both + config.drop_text
        face = config.drop_both + config.drop_text <= chance < config.drop_both + config.drop_text + config.drop_face
        return Draws(int(random.integers(TIMESTEPS)), both or text, both or face, int(random.integers(2**62)))

    def generator(self) -> torch.Generator:
        """The row's own source of noise, the same on every device."""
        return torch.Generator("cpu").manual_seed(self.seed)
