"""Rows that finetuning never trains on, and its loss on them at fixed timesteps and with fixed noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.decode import face_pixels
from ..data.shards import Sample, ShardSource
from ..run.config import ConfigError
from ..run.ranks import Ranks
from .conditions import Conditions
from .diffusion import NoiseSchedule
from .latents import LatentSource
from .rows import Draws, Rows

TIMESTEPS = (100, 300, 500, 700, 900)
"""Of 1,000: from what is nearly the picture to what is nearly noise."""
READERS = 16


def held_out_by_person(source: ShardSource, share: float, ranks: Ranks) -> np.ndarray:
    """bool [N]: the rows of people whose number's hash falls into the first `share` of all hashes.

    A person is in or out with every row, whatever the order of shards, the seed and the number of ranks. Where
    a row's person is not known, the row's key stands for one. Rank 0 reads every sample's json for it.

    Raises ConfigError where that leaves nothing on one side.
    """
    kept = ranks.broadcast(_held_out(source, share) if ranks.is_main else np.empty(0, dtype=bool))
    if not kept.any() or kept.all():
        raise ConfigError(
            f"A held_out_share of {share:g} keeps {kept.sum()} of {len(kept)} rows out, by their people. Give a larger or "
            "smaller share, or shards of their own with --held-out."
        )
    return kept


def is_held_out(person: str, share: float) -> bool:
    """Whether a person's hash, as a share of all hashes, is below `share`."""
    return int.from_bytes(blake2b(person.encode(), digest_size=8).digest(), "big") < share * 2**64


def _held_out(source: ShardSource, share: float) -> np.ndarray:
    labels = ShardSource(source.shards, read=("meta",))

    def of_row(row: int) -> bool:
        sample = labels[row]
        return is_held_out(sample.key if sample.identity < 0 else str(sample.identity), share)

    with ThreadPoolExecutor(READERS) as readers:
        return np.fromiter(readers.map(of_row, range(len(labels))), dtype=bool, count=len(labels))


def spread(rows: Sequence[int] | np.ndarray, most: int) -> list[int]:
    """At most so many of the rows, at even distances, the same at every start."""
    places = np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)
    return [int(rows[place]) for place in places]


class _Fixed(NamedTuple):
    """A row as it is measured, in CPU memory, the same at every measurement: T timesteps."""

    noisy: Tensor
    """[T, 4, h, w]"""
    latents: Tensor
    """[1, 4, h, w]"""
    noise: Tensor
    """[T, 4, h, w]"""
    embeddings: Tensor
    """[1, 77, d]"""
    pooled: Tensor
    """[1, p]"""
    time_ids: Tensor
    """[1, 6]"""


class HeldOutLoss:
    """The run's loss on some samples, with nothing dropped of their conditions.

    What does not change is computed at the first measurement and kept in CPU memory: 3.5 MB a row for SDXL at
    1024 px. Numbers do not depend on how many ranks share the rows.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        latents: LatentSource,
        conditions: Conditions,
        schedule: NoiseSchedule,
        dtype: torch.dtype,
    ):
        """
        Args:
            conditions: of rows with pixels of faces.
            dtype: of the UNet.
        """
        self._samples = samples
        self._latents = latents
        self._conditions = conditions
        self._schedule = schedule
        self._dtype = dtype
        self._fixed: dict[int, _Fixed] = {}

    @torch.no_grad()
    def measure(self, unet: Callable[..., Any], ranks: Ranks) -> dict[str, float]:
        """`held_out_loss`, the mean, and `held_out_loss_t100` and so on, at each timestep; collective."""
        losses = np.array(ranks.deal(range(len(self._samples)), lambda own: [self._losses(unet, n, ranks) for n in own]))
        at_each = {f"held_out_loss_t{t}": float(loss) for t, loss in zip(TIMESTEPS, losses.mean(axis=0), strict=True)}
        return {"held_out_loss": float(losses.mean()), **at_each}

    def _losses(self, unet: Callable[..., Any], number: int, ranks: Ranks) -> list[float]:
        if number not in self._fixed:
            self._fixed[number] = self._fix(number)
        row, device, many = self._fixed[number], ranks.device, len(TIMESTEPS)
        timesteps = torch.tensor(TIMESTEPS, device=device)
        added = {
            "text_embeds": row.pooled.to(device, self._dtype).expand(many, -1),
            "time_ids": row.time_ids.to(device, torch.float32).expand(many, -1),
        }
        embeddings = row.embeddings.to(device, self._dtype).expand(many, -1, -1)
        predicted = unet(row.noisy.to(device, self._dtype), timesteps, embeddings, added_cond_kwargs=added).sample
        latents = row.latents.to(device).expand(many, -1, -1, -1)
        return self._schedule.losses(predicted, latents, row.noise.to(device), timesteps).tolist()

    def _fix(self, number: int) -> _Fixed:
        sample = self._samples[number]
        picture, time_ids = self._latents.read(number, sample)
        draw = Draws(0, False, False, seed=2 * number)
        row = Rows(
            index=[number],
            key=[sample.key],
            caption=[sample.caption],
            has_face=torch.tensor([sample.face is not None]),
            faces=torch.from_numpy(face_pixels(sample.face).copy())[None],
            pictures=picture[None],
            time_ids=torch.tensor([time_ids]),
            draws=[draw],
        )
        latents = self._latents.encode(row.pictures, row.draws).float().cpu()
        generator = torch.Generator("cpu").manual_seed(draw.seed + 1)
        noise = torch.randn(len(TIMESTEPS), *latents.shape[1:], generator=generator)
        noisy = self._schedule.add_noise(latents, noise, torch.tensor(TIMESTEPS))
        embeddings, pooled = (condition.cpu() for condition in self._conditions(row))
        return _Fixed(noisy, latents, noise, embeddings, pooled, row.time_ids)
