"""No test sees what another one set for the whole process."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="module", params=("first", "second"))
def seen(request: pytest.FixtureRequest) -> tuple:
    """torch's settings as a fixture of the module finds them."""
    return settings()


def settings() -> tuple:
    deterministic = torch.are_deterministic_algorithms_enabled()
    return torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(), deterministic


def test_torch_is_as_in_a_new_process_whatever_was_set_before(seen: tuple) -> None:
    assert seen == settings() == (1, torch.float32, True, False)
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(True)
