"""What a step of finetuning is given: rows of one aspect bucket, their latents, and what is dropped of their conditions."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .buckets import BucketBatches
from .config import FinetuneConfig
from .data import DataError
from .diffusion import TIMESTEPS
from .distributed import Ranks
from .framing import aspect_buckets, cut, frame
from .latent_cache import place
from .shards import Sample, ShardSource
from .transforms import decode, decode_face


@dataclass(frozen=True, eq=False)
class Rows:
    """This rank's b rows of a global batch, all of one bucket, on the CPU.

    pictures: what `Latents.encode` takes, [b, ...]. faces: [b, 3, 448, 448] in [0, 1], or None where features are cached.
    time_ids: [b, 6] SDXL's size conditions. draws: what is random about each row.
    """

    index: list[int]
    key: list[str]
    caption: list[str]
    has_face: Tensor
    faces: Tensor | None
    pictures: Tensor
    time_ids: Tensor
    draws: list[Draws]

    def part(self, part: slice) -> Rows:
        """Some of the rows."""
        columns: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        some: dict[str, Any] = {name: None if column is None else column[part] for name, column in columns.items()}
        return Rows(**some)


@dataclass(frozen=True)
class Draws:
    """What is random about one row of one step: a function of the seed, the step and its place in the global batch alone.

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


class Latents(Protocol):
    """Where latents come from: a VAE, or a cache of what one made."""

    def buckets(self) -> np.ndarray:
        """The bucket of each row of the source, int [N]."""
        ...

    def read(self, row: int, sample: Sample) -> tuple[Tensor, tuple[int, ...]]:
        """What `encode` needs of a row, on the CPU, and its size conditions."""
        ...

    def encode(self, pictures: Tensor, draws: Sequence[Draws]) -> Tensor:
        """What `read` gave for b rows -> latents [b, 4, h, w], scaled as SDXL's UNet wants them."""
        ...


class LiveLatents:
    """Cut each picture to its bucket and encode it at every step."""

    def __init__(self, source: ShardSource, vae: Any, resolution: int, device: torch.device):
        self._source = source
        self._vae = vae.to(device).eval().requires_grad_(False)
        self._device = device
        self._shapes = aspect_buckets(resolution)

    def buckets(self) -> np.ndarray:
        return place(self._source, self._shapes, threads=8)[:, 0]

    def read(self, row: int, sample: Sample) -> tuple[Tensor, tuple[int, ...]]:
        picture = decode(sample.image, "photograph")
        framing = frame((picture.height, picture.width), self._shapes)
        pixels = np.array(cut(picture, framing))
        return torch.from_numpy(pixels), framing.condition

    @torch.no_grad()
    def encode(self, pictures: Tensor, draws: Sequence[Draws]) -> Tensor:
        x = pictures.to(self._device, self._vae.dtype) / 127.5 - 1
        posterior = self._vae.encode(x).latent_dist
        noise = torch.cat([torch.randn(1, *posterior.mean.shape[1:], generator=draw.generator()) for draw in draws])
        return (posterior.mean + posterior.std * noise.to(posterior.mean)) * self._vae.config.scaling_factor


_Read = tuple[Sample, tuple[Tensor, tuple[int, ...]], np.ndarray | None, bool]
"""A row's sample, what its latents are made from with its size conditions, its face where faces are wanted, and whether it has
one."""
_NO_PICTURE = (torch.empty(0), ())


class RowReader:
    """`reader(step)` -> this rank's rows of the step's global batch, `config.workers` of them read at a time.

    Threads may share it. With `remember_conditions`, and latents and features from caches, a row is read once and kept.
    """

    def __init__(self, config: FinetuneConfig, ranks: Ranks, source: ShardSource, latents: Latents, faces: bool):
        if config.batch_size % ranks.world:
            raise ValueError(
                f"A global batch of {config.batch_size} cannot be dealt to {ranks.world} ranks: every rank needs as many rows. "
                f"Choose a multiple of {ranks.world}."
            )
        self._config = config
        self._source = source
        self._latents = latents
        self._faces = faces
        self._batches = BucketBatches(latents.buckets(), config.batch_size, config.seed)
        share = config.batch_size // ranks.world
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
