"""The golden FaceT5."""

from __future__ import annotations

import pytest

from ...golden import GoldenT5, golden_t5


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> GoldenT5:
    return golden_t5(tmp_path_factory.mktemp("facet5") / "face_t5_encoder.pt")
