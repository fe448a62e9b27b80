"""FID and KID by torch-fidelity: how far a set of pictures is from real ones.

FID is biased for few pictures, KID is not.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..tensor_file import CheckpointError, read_state_dict
from .errors import MetricError, MetricUnavailableError, require

logger = logging.getLogger(__name__)

INCEPTION = "inception-v3-compat"
KID_SUBSET = 1000
KID_SUBSETS = 100
BATCH = 32


@dataclass(frozen=True)
class DistributionScores:
    """FID and, always beside it, KID. Compare them only at the same numbers of images and the same features."""

    fid: float
    kid: float
    kid_std: float
    """Standard deviation over the KID's subsets."""
    images: int
    real: int
    subset_size: int
    dimensions: int


def compare_distributions(
    images: Tensor, real: Tensor, *, subset_size: int = KID_SUBSET, subsets: int = KID_SUBSETS, seed: int = 0
) -> DistributionScores:
    """FID and KID of two sets of features [N, D] and [M, D]; warns where the FID is biased by few images.

    Raises:
        MetricError: widths that differ, or a set smaller than the KID's subset.
        MetricUnavailableError: torch-fidelity is not installed.
    """
    kid, kid_std = kernel_distance(images, real, subset_size=subset_size, subsets=subsets, seed=seed)
    width = images.shape[1]
    warn_of_bias(min(len(images), len(real)), width)
    return DistributionScores(frechet_distance(images, real), kid, kid_std, len(images), len(real), subset_size, width)


def warn_of_bias(images: int, width: int) -> None:
    """Log a warning where the FID of `images` pictures with `width` features
    is badly biased: for Inception, below 2,048."""
    if images < width:
        logger.warning(
            "FID from %d images and features of width %d: the covariance has not full rank, and the FID is biased upwards. Use "
            "at least %d images, compare only at this number, and look at the KID.",
            images,
            width,
            width,
        )


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """FID of two sets of features [N, D], [M, D]: the Frechet distance of
    the Gaussians fitted to them (Heusel et al. 2017).

    Raises:
        MetricError: widths that differ, or fewer than two images.
    """
    _check(first, second, at_least=2)
    require("torch_fidelity", "torch-fidelity", "FID")
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    statistics = [fid_features_to_statistics(features.double().cpu()) for features in (first, second)]
    return float(fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID])


def kernel_distance(
    first: Tensor, second: Tensor, *, subset_size: int = KID_SUBSET, subsets: int = KID_SUBSETS, seed: int = 0
) -> tuple[float, float]:
    """KID of two sets of features [N, D], [M, D] and its standard deviation over subsets (Binkowski et al. 2018).

    The unbiased squared MMD of the kernel (x.y / D + 1)^3, averaged over
    subsets drawn with `seed`; a little below 0 is fine.

    Raises:
        MetricError: widths that differ, or a set smaller than `subset_size`.
    """
    _check(first, second, at_least=max(2, subset_size))
    require("torch_fidelity", "torch-fidelity", "KID")
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    options = {"kid_subset_size": subset_size, "kid_subsets": subsets, "rng_seed": seed, "verbose": False}
    result = kid_features_to_metric(first.double(), second.double(), **options)
    return float(result[KEY_METRIC_KID_MEAN]), float(result[KEY_METRIC_KID_STD])


def load_extractor(name: str = INCEPTION, weights: str | Path = "", device: torch.device | str = "cpu") -> Any:
    """A feature extractor registered with torch-fidelity, by default FID's InceptionV3 (2,048 features).

    Without `weights` torch-fidelity downloads them once, to torch's hub folder.

    Raises:
        MetricError: no such extractor.
        CheckpointError: the weights' file is missing, damaged, or holds code.
        MetricUnavailableError: torch-fidelity is not installed, or the weights cannot be downloaded.
    """
    require("torch_fidelity", "torch-fidelity", "FID")
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY
    from torch_fidelity.utils import create_feature_extractor

    if name not in FEATURE_EXTRACTORS_REGISTRY:
        raise MetricError(f"torch-fidelity has no features {name!r}. Choose one of: {', '.join(FEATURE_EXTRACTORS_REGISTRY)}.")
    layer = FEATURE_EXTRACTORS_REGISTRY[name].get_default_feature_layer_for_metric("fid")
    try:
        with _plain(weights) as path:
            options = {"feature_extractor_weights_path": path, "verbose": False}
            extractor = create_feature_extractor(name, [layer], cuda=False, **options)
    except CheckpointError:
        raise
    except OSError as error:
        raise MetricUnavailableError(
            f"The weights of {name} could not be downloaded ({error}). Get them on a machine with network (torch-fidelity keeps "
            f"them in {torch.hub.get_dir()}/checkpoints) and name the file with --fid-weights."
        ) from error
    except RuntimeError as error:
        raise MetricError(f"{weights} does not hold the weights of {name}: {error}") from error
    return extractor.to(device)


@contextmanager
def _plain(weights: str | Path) -> Iterator[str | None]:
    """A file with the tensors that we read from `weights` and nothing else:
    torch-fidelity runs whatever code a pickle holds."""
    if not weights:
        yield None
        return
    tensors = read_state_dict(weights)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        torch.save(tensors, path)
        yield str(path)


@torch.no_grad()
def extract_features(extractor: Any, images: Iterable[np.ndarray], progress: Callable[[int], None] | None = None) -> Tensor:
    """Images uint8 [H, W, 3] RGB of any sizes -> the extractor's features float32 [N, D], on the CPU.

    Images are given as they are: the extractor resizes them as its reference
    implementation does. `progress` is called with the number of images done.
    """
    device = next((parameter.device for parameter in extractor.parameters()), torch.device("cpu"))
    rows, done = [], 0
    for batch in _same_size(images):
        (features,) = extractor(torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).contiguous().to(device))
        rows.append(features.flatten(1).float().cpu())
        done += len(batch)
        if progress is not None:
            progress(done)
    if not rows:
        raise MetricError("There is no image to extract features from.")
    return torch.cat(rows)


def _same_size(images: Iterable[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Runs of images of one size, in order, BATCH at most."""
    batch: list[np.ndarray] = []
    for image in images:
        if batch and (len(batch) == BATCH or batch[0].shape != image.shape):
            yield batch
            batch = []
        batch.append(image)
    if batch:
        yield batch


def _check(first: Tensor, second: Tensor, at_least: int) -> None:
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise MetricError(
            f"Two sets of features [N, D] of one width are compared; found {list(first.shape)}, {list(second.shape)}."
        )
    smallest = min(len(first), len(second))
    if smallest < at_least:
        raise MetricError(
            f"There are {len(first)} and {len(second)} images; at least {at_least} of each are needed (the KID's subset size). "
            f"Use more images, or a KID subset of at most {smallest}, and say so beside the number."
        )
    if not all(math.isfinite(float(features.sum())) for features in (first, second)):
        raise MetricError("The features hold values that are not finite numbers: the extractor's weights are damaged.")
