"""VAE latents of every photograph in its aspect bucket, each with the
size conditions of the very pixels it was made from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.batches import ordered_batches
from ..data.decode import decode
from ..data.framing import _BUCKET, _CONDITION, _SLOT, Framing, Size, cut, frame, place
from ..data.shards import Sample, ShardSource
from .features import require_finite
from .row_store import CacheError, Column, RowStore, damaged

KIND = "latents"
PLACES = "places"


@dataclass(frozen=True, eq=False)
class Latents:
    """b rows of one bucket: the VAE's Gaussian, unscaled, `mean` and `std`
    [b, C, h/8, w/8], and `condition` int64 [b, 6]."""

    mean: Tensor
    std: Tensor
    condition: Tensor
    """SDXL's `time_ids`: original height and width, crop top and left, target height and width, in pixels."""

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw latents [b, C, h/8, w/8] fp32, not yet times the VAE's scaling factor."""
        noise = torch.randn(self.mean.shape, generator=generator, dtype=torch.float32)
        return self.mean.float() + self.std.float() * noise


class LatentCache:
    """Latents by row of the source. Photographs share an array with those of their bucket."""

    def __init__(self, path: str | Path, source: ShardSource):
        """
        Raises:
            CacheError: no finished cache is there, or it was made from other shards.
        """
        self._store = RowStore.open(path, KIND, source)
        self.made_by = self._store.made_by
        try:
            self.buckets: list[Size] = [(int(height), int(width)) for height, width in self._store.description["buckets"]]
            self.scaling_factor = float(self.made_by["scaling_factor"])
            """What the VAE's latents are multiplied with before they get noise (SDXL: 0.13025)."""
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise damaged(self._store.path, f"its description lacks buckets or the VAE's scaling factor ({error})") from error
        self.vae = (self.made_by.get("vae"), self.scaling_factor)
        """Equal for caches of one VAE, in whatever precision it computed."""
        if not 0 < self.scaling_factor < math.inf:
            raise damaged(self._store.path, f"its description has a scaling factor of {self.scaling_factor}")
        places = self._store.arrays.get(PLACES)
        if places is None or places.shape != (len(self._store.done), 8):
            raise damaged(self._store.path, f"it has no {PLACES} of [{len(self._store.done)}, 8]")
        self.bucket_of: np.ndarray = np.array(places[:, _BUCKET])
        """int32 [N]: each row's place in `buckets`."""
        self._require_places()

    def _require_places(self) -> None:
        """Raise CacheError where a row lies in no array."""
        places, arrays = self._store.arrays[PLACES], self._store.arrays
        for bucket in np.unique(self.bucket_of).tolist():
            name = _name(self.buckets[bucket]) if 0 <= bucket < len(self.buckets) else ""
            slots = np.asarray(places[self.bucket_of == bucket, _SLOT])
            if name not in arrays or slots.min() < 0 or slots.max() >= len(arrays[name]):
                raise damaged(self._store.path, f"{PLACES}.npy places photographs where no latents are")

    def __len__(self) -> int:
        return len(self.bucket_of)

    def framing(self, row: int) -> Framing:
        """How the photograph of a row was shown to the VAE."""
        numbers = [int(number) for number in self._store.arrays[PLACES][row, _CONDITION]]
        return Framing((numbers[0], numbers[1]), (numbers[2], numbers[3]), (numbers[4], numbers[5]))

    def read(self, index: Tensor) -> Latents:
        """Rows `index` int64 [b], all of one bucket.

        Raises:
            CacheError: they are of several buckets.
        """
        places = self._store.arrays[PLACES][index.cpu().numpy()]
        buckets = np.unique(places[:, _BUCKET])
        if len(buckets) != 1:
            sizes = [self.buckets[int(bucket)] for bucket in buckets]
            raise CacheError(f"A batch of latents must be of one bucket; these rows are of {sizes}.")
        moments = torch.from_numpy(np.asarray(self._store.arrays[_name(self.buckets[int(buckets[0])])][places[:, _SLOT]]))
        return Latents(moments[:, 0], moments[:, 1], torch.from_numpy(places[:, _CONDITION].astype(np.int64)))


def cache_latents(
    source: ShardSource,
    path: str | Path,
    encode: Callable[[Tensor], tuple[Tensor, Tensor]],
    buckets: Sequence[Size],
    made_by: dict[str, Any],
    *,
    batch_size: int = 4,
    threads: int = 8,
    part: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Fill a cache of latents, stored in float16; goes on where an earlier call stopped.

    Args:
        encode: pixels float32 [b, 3, h, w] in [-1, 1] to the latents' mean
            and standard deviation, [b, C, h/8, w/8] each.
        made_by: what identifies the VAE, and its `scaling_factor`; a cache that was begun with another is refused.
        part, progress: as in `cache_features`.

    Raises:
        CacheError: the folder holds another cache, the disk is full, or a latent is not finite.
        DataError: a sample cannot be read.
    """
    places = place(source, buckets, threads)
    probe, _ = encode(torch.zeros(1, 3, *buckets[0]))
    channels, factor = probe.shape[1], buckets[0][0] // probe.shape[2]
    columns = {PLACES: Column(places.shape, "int32")}
    for bucket, (height, width) in enumerate(buckets):
        if count := int((places[:, _BUCKET] == bucket).sum()):
            shape = (count, 2, channels, height // factor, width // factor)
            columns[_name((height, width))] = Column(shape, "float16")
    description = {
        "kind": KIND,
        "source": source.fingerprint,
        "made_by": made_by,
        "buckets": [list(size) for size in buckets],
    }
    store = RowStore.create(path, len(source), columns, description)
    store.arrays[PLACES][:] = places  # every process writes the same
    rows = store.to_do(*part)
    done = 0
    for bucket in np.unique(places[rows, _BUCKET]):
        inside = rows[places[rows, _BUCKET] == bucket]
        for batch in ordered_batches(source, inside, batch_size, _Pixels(buckets), threads):
            _encode_batch(store, encode, batch, buckets[int(bucket)])
            done += len(batch["index"])
            if progress is not None:
                progress(done, len(rows))


def _encode_batch(store: RowStore, encode: Callable, batch: dict[str, Any], size: Size) -> None:
    mean, std = encode(batch["pixels"].float() / 127.5 - 1)
    moments = torch.stack([mean, std], dim=1).half().cpu().numpy()
    require_finite({"latent": moments}, batch["key"])
    index = batch["index"].numpy()
    store.arrays[_name(size)][store.arrays[PLACES][index, _SLOT]] = moments
    store.finish(index, [_name(size), PLACES])


@dataclass(frozen=True)
class _Pixels:
    """A sample's photograph, cut for its bucket."""

    buckets: Sequence[Size]

    def __call__(self, sample: Sample, random: np.random.Generator) -> dict[str, Any]:
        picture = decode(sample.image, "photograph")
        return {"pixels": cut(picture, frame((picture.height, picture.width), self.buckets))}


def _name(size: Size) -> str:
    return f"latents_{size[0]}x{size[1]}"
