"""What the frozen towers say of every sample, computed once: CLIP
embeddings and face features (paper, eq. 3's targets)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from faceclip import FaceCLIPEncoder

from ..data.batches import Transform, ordered_batches
from ..data.shards import ShardSource
from .row_store import CacheError, Column, RowStore, damaged


def require_face_tower(cache: FeatureCache, encoder: FaceCLIPEncoder) -> None:
    """Raise CacheError unless the cache's face features are those of the encoder's face tower."""
    branch = next(iter(encoder.config.branches.values()))
    towers = len(encoder.face_towers)
    cache.require("class_token", (towers, branch.face.classes))
    cache.require("patch_tokens", (towers, branch.face.grid**2, branch.face.width))
    found, own = cache.signature, encoder.signature()
    if found is None or found.shape != own.shape or not torch.allclose(found, own, rtol=2e-2, atol=1e-5):
        raise CacheError(
            "The cached face features were made by another face tower than this run's. "
            "Cache them again with the files that the run starts from."
        )


logger = logging.getLogger(__name__)

KIND = "features"
Extract = Callable[[Mapping[str, Any]], dict[str, Tensor]]
"""A batch of `TrainingData`'s form to named features, each [b, ...]."""


class FeatureCache:
    """Features of N samples by row: `clip_image` [N, dt], `clip_text` [N, dt], `class_token` [N, F, 512],
    `patch_tokens` [N, F, 144, w]; those that were cached. Mapped, not loaded: all ranks of a machine share the
    pages.
    """

    def __init__(self, path: str | Path, source: ShardSource):
        """
        Raises:
            CacheError: no finished cache is there, or it was made from other shards.
        """
        self._store = RowStore.open(path, KIND, source)
        self.made_by = self._store.made_by
        """Which towers made the features, by the names given to `cache_features`."""
        if wrong := [name for name, array in self._store.arrays.items() if array.shape[:1] != self._store.done.shape]:
            raise damaged(self._store.path, f"{wrong[0]} has another number of rows than the cache")
        try:
            _ = self.signature
        except (TypeError, ValueError, RuntimeError) as error:
            raise damaged(self._store.path, f"the signature of its face tower is no table of numbers ({error})") from error

    def __len__(self) -> int:
        return len(self._store.done)

    @property
    def signature(self) -> Tensor | None:
        """[F, 64] fp32: the face tower's, as `Identity.signature` has it. None where no face features were cached."""
        found = self.made_by.get("signature")
        return None if found is None else torch.tensor(found, dtype=torch.float32)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of one row of each feature."""
        return {name: array.shape[1:] for name, array in self._store.arrays.items()}

    def require(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise CacheError unless the feature is there and a row of it has this shape."""
        found = self.shapes.get(name)
        if found != shape:
            held = ", ".join(f"{each} {list(size)}" for each, size in self.shapes.items())
            raise CacheError(
                f"The cache {self._store.path} has no {name} of shape {list(shape)}. It holds: {held}. "
                "Make it again with the towers that are trained with."
            )

    def read(self, index: Tensor) -> dict[str, Tensor]:
        """Rows `index` int64 [b] of every feature, on the CPU, in the precision they are stored in."""
        rows = index.cpu().numpy()
        return {name: torch.from_numpy(np.asarray(array[rows])) for name, array in self._store.arrays.items()}


class JoinedFeatures:
    """The features of main and guided rows as one table, under the row numbers of `TrainingData`."""

    def __init__(self, main: FeatureCache, guided: FeatureCache | None = None):
        self._main, self._guided = main, guided

    def read(self, index: Tensor) -> dict[str, Tensor]:
        """Rows `index` int64 [b]. Guided rows hold zeros in features that their cache lacks, such as those of faces.

        Raises:
            CacheError: there are guided rows, and no cache of theirs.
        """
        guided = index >= len(self._main)
        if not guided.any():
            return self._main.read(index)
        if self._guided is None:
            raise CacheError(
                "The batch has guided rows, but their features were not cached. Name the cache of the guided shards."
            )
        others = self._guided.read(index[guided] - len(self._main))
        features = self._main.read(torch.where(guided, 0, index))
        for name, values in features.items():
            values[guided] = others[name].to(values.dtype) if name in others else 0
        return features


def share_faces(path: str | Path, other: str | Path, source: ShardSource) -> None:
    """Add the face features in the cache `other` of the same shards to the one at `path`, which was made without.

    Branches that share a face tower need them once. Both must be
    finished; nothing is done where they are there already.

    Raises:
        CacheError: one of them is not finished, is of other shards, or `other` has no face features.
    """
    store, found = RowStore.open(path, KIND, source), RowStore.open(other, KIND, source)
    names = [name for name in ("class_token", "patch_tokens") if name in found.arrays]
    if not names:
        raise CacheError(f"The cache {other} has no face features. Cache it with --faces.")
    if not set(names) <= set(store.arrays):
        store.adopt(found, names, {"signature": found.made_by["signature"]})


def cache_features(
    source: ShardSource,
    path: str | Path,
    extract: Extract,
    transform: Transform,
    made_by: Mapping[str, Any],
    *,
    dtypes: Mapping[str, str],
    batch_size: int = 64,
    threads: int = 8,
    part: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Fill a cache with what `extract` makes of every sample; goes on where an earlier call stopped.

    Args:
        made_by: what identifies the towers; a cache that was begun with others is refused.
        dtypes: numpy's name of the type each feature is stored in; float32 where none is given.
        part: this process and how many share the work, each a stretch of the rows.
        progress: called with the rows done and those to do, after every batch; may raise to stop.

    Raises:
        CacheError: the folder holds another cache, the disk is full, or a feature is not finite.
        DataError: a sample cannot be read.
    """
    probe = extract(next(ordered_batches(source, [0], 1, transform, threads=1)))
    columns = {name: Column((len(source), *values.shape[1:]), dtypes.get(name, "float32")) for name, values in probe.items()}
    description = {"kind": KIND, "source": source.fingerprint, "made_by": dict(made_by)}
    store = RowStore.create(path, len(source), columns, description)
    rows = store.to_do(*part)
    stored = {name: getattr(torch, column.dtype) for name, column in columns.items()}
    for count, batch in enumerate(ordered_batches(source, rows, batch_size, transform, threads), start=1):
        features = {name: values.to(stored[name]).cpu().numpy() for name, values in extract(batch).items()}
        require_finite(features, batch["key"])
        store.fill(batch["index"].numpy(), features)
        if progress is not None:
            progress(min(count * batch_size, len(rows)), len(rows))


def require_finite(values: Mapping[str, np.ndarray], keys: list[str]) -> None:
    """Raise CacheError naming the sample and the feature of the first row that holds a NaN or an infinity."""
    for name, array in values.items():
        finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if not finite.all():
            raise CacheError(
                f"The {name} of sample {keys[int(finite.argmin())]!r} is not finite. Compute in float32, or take the sample out."
            )
