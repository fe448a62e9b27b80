"""FID and KID against formulas written out in float64, and on sets whose distance is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from faceclip.metrics import (
    MetricError,
    MetricUnavailableError,
    compare_distributions,
    extract_features,
    frechet_distance,
    kernel_distance,
    load_extractor,
)
from faceclip.tensor_file import CheckpointError

COLOURS = "faceclip-test-colours"


@pytest.fixture(scope="session")
def colours() -> str:
    """A feature extractor with 6 features, registered with torch-fidelity: mean and deviation of each colour."""
    from torch_fidelity import FeatureExtractorBase, register_feature_extractor

    class Colours(FeatureExtractorBase):
        def __init__(self, name, features_list, **options):
            super().__init__(name, features_list)
            self.weight = nn.Parameter(torch.ones(1))
            if options.get("feature_extractor_weights_path"):
                self.load_state_dict(torch.load(options["feature_extractor_weights_path"], weights_only=True))

        @staticmethod
        def get_provided_features_list():
            return ("6",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return "6"

        @staticmethod
        def can_be_compiled():
            return False

        def forward(self, images):
            assert images.dtype == torch.uint8
            values = images.float().flatten(2) / 255 * self.weight
            return self.convert_features_dict_to_tuple(torch.cat([values.mean(2), values.std(2)], 1))

        def convert_features_dict_to_tuple(self, features):
            return (features,)

    register_feature_extractor(COLOURS, Colours)
    return COLOURS


def gaussian(number: int, mean: np.ndarray, root: np.ndarray, seed: int) -> Tensor:
    """`number` rows whose own mean and covariance are exactly `mean` and root @ root.T."""
    rows = np.random.default_rng(seed).normal(size=(number, len(mean)))
    rows -= rows.mean(0)
    rows = rows @ np.linalg.inv(np.linalg.cholesky(np.cov(rows, rowvar=False))).T
    return torch.from_numpy(rows @ root.T + mean)


def test_fid_is_the_frechet_distance_of_two_known_gaussians() -> None:
    random = np.random.default_rng(0)
    means = random.normal(size=(2, 8))
    roots = random.normal(size=(2, 8, 8))
    first, second = (gaussian(500, means[i], roots[i], seed=i) for i in range(2))
    # |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), Heusel et al. 2017
    covariances = roots @ roots.transpose(0, 2, 1)
    middle = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * middle)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)


def test_fid_of_shifted_copies_is_the_square_of_the_shift() -> None:
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(200, 5)))
    assert frechet_distance(rows, rows + 3) == pytest.approx(45, rel=1e-9)


def test_kid_is_the_unbiased_mmd_of_the_cubic_kernel() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(40, 6)), random.normal(0.5, 1.2, size=(40, 6))

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / 6 + 1) ** 3

    n = len(x)
    within = sum((kernel(z, z).sum() - np.trace(kernel(z, z))) / (n * (n - 1)) for z in (x, y))
    expected = within - 2 * kernel(x, y).mean()
    found, spread = kernel_distance(torch.from_numpy(x), torch.from_numpy(y), subset_size=40, subsets=3)
    assert found == pytest.approx(expected, rel=1e-9)
    assert spread == pytest.approx(0, abs=1e-12), "the only subset of 40 of 40"


def test_identical_and_alike_sets_are_at_distance_0_and_others_are_not() -> None:
    random = np.random.default_rng(0)
    x, alike, other = (torch.from_numpy(random.normal(mean, 1, size=(1000, 10))) for mean in (0, 0, 1))
    same = compare_distributions(x, x, subset_size=250, subsets=10)
    assert same.fid == pytest.approx(0, abs=1e-6)
    assert same.kid == pytest.approx(0, abs=0.02)
    close, far = (compare_distributions(x, y, subset_size=250, subsets=10) for y in (alike, other))
    assert abs(close.kid) < 3 * close.kid_std
    assert close.fid < 0.2
    assert far.fid == pytest.approx(10, rel=0.1)
    assert far.kid > 20 * abs(close.kid)
    assert (far.images, far.real, far.subset_size, far.dimensions) == (1000, 1000, 250, 10)


def test_the_seed_draws_the_subsets() -> None:
    random = np.random.default_rng(0)
    x, y = (torch.from_numpy(random.normal(size=(60, 4))) for _ in range(2))
    first, again, other = (kernel_distance(x, y, subset_size=20, subsets=5, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_too_few_images_for_kid_are_refused_and_few_for_fid_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    x = torch.randn(30, 64, generator=torch.Generator().manual_seed(0))
    with pytest.raises(MetricError, match="30 and 30 images; at least 1000 .* KID subset of at most 30"):
        compare_distributions(x, x)
    compare_distributions(x, x, subset_size=30, subsets=2)
    assert "FID from 30 images and features of width 64" in caplog.text
    caplog.clear()
    wide = torch.randn(80, 64, generator=torch.Generator().manual_seed(0))
    compare_distributions(wide, wide, subset_size=30, subsets=2)
    assert caplog.text == ""


def test_the_warning_comes_below_2048_images_of_inceptions_2048_features(caplog: pytest.LogCaptureFixture) -> None:
    from faceclip.metrics import distribution

    distribution.warn_of_bias(2047, 2048)
    assert "Use at least 2048 images" in caplog.text
    caplog.clear()
    distribution.warn_of_bias(2048, 2048)
    assert caplog.text == ""


def test_sets_that_do_not_compare_are_refused() -> None:
    with pytest.raises(MetricError, match=r"\[4, 3\], \[4, 2\]"):
        frechet_distance(torch.zeros(4, 3), torch.zeros(4, 2))
    with pytest.raises(MetricError, match="not finite numbers"):
        frechet_distance(torch.full((4, 3), math.nan), torch.zeros(4, 3))


def test_features_of_images_of_any_size_come_in_order(colours: str) -> None:
    random = np.random.default_rng(0)
    shapes = [(8, 8, 3), (8, 8, 3), (5, 9, 3), (8, 8, 3)]
    images = [random.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
    told: list[int] = []
    found = extract_features(load_extractor(colours), images, told.append)
    expected = [np.concatenate([(i / 255).mean((0, 1)), (i / 255).reshape(-1, 3).std(0, ddof=1)]) for i in images]
    assert found.numpy() == pytest.approx(np.stack(expected), abs=1e-5)
    assert told == [2, 3, 4]


def test_an_extractor_reads_the_weights_it_is_given(colours: str, tmp_path) -> None:
    torch.save({"weight": torch.full((1,), 2.0)}, tmp_path / "weights.pt")
    image = np.full((4, 4, 3), 51, np.uint8)
    assert extract_features(load_extractor(colours, tmp_path / "weights.pt"), [image])[0, 0] == pytest.approx(0.4)
    torch.save({"another": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(MetricError, match="does not hold the weights of faceclip-test-colours"):
        load_extractor(colours, tmp_path / "other.pt")
    (tmp_path / "empty.pt").touch()
    with pytest.raises(CheckpointError, match="empty.pt"):
        load_extractor(colours, tmp_path / "empty.pt")


def test_fids_own_inception_runs_from_a_file_of_weights(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The published weights cannot be fetched in a test: the same network, with the ones it starts from.
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    kept: dict[str, Tensor] = {}
    torch.save({"nothing": torch.zeros(1)}, tmp_path / "nothing.pt")
    with monkeypatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, _: kept.update(self.state_dict()))
        load_extractor(weights=tmp_path / "nothing.pt")
    torch.save(kept, tmp_path / "inception.pt")
    image = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    features = extract_features(load_extractor(weights=tmp_path / "inception.pt"), [image, image])
    assert features.shape == (2, 2048)
    assert torch.isfinite(features).all()


def test_weights_that_cannot_be_downloaded_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    from urllib.error import URLError

    import torch_fidelity.feature_extractor_inceptionv3 as inception

    def offline(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(inception, "load_state_dict_from_url", offline)
    with pytest.raises(MetricUnavailableError, match="could not be downloaded .*no network.* --fid-weights"):
        load_extractor()


def test_an_unknown_extractor_names_the_known() -> None:
    with pytest.raises(MetricError, match="no features 'nothing'.*inception-v3-compat"):
        load_extractor("nothing")
