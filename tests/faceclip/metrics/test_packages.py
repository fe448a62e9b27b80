"""What is optional is asked for by name, and only when it is needed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import torch

from faceclip.metrics import (
    MetricUnavailableError,
    cluster_bootstrap,
    draw_identity_map,
    frechet_distance,
    imagenet_templates,
    kernel_distance,
    load_clip,
    load_extractor,
    measure_identity_map,
)

ROWS = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
PEOPLE = [0, 1] * 6


@pytest.mark.parametrize(
    ("module", "package", "call"),
    [
        ("torch_fidelity", "torch-fidelity", lambda: frechet_distance(ROWS, ROWS)),
        ("torch_fidelity", "torch-fidelity", lambda: kernel_distance(ROWS, ROWS, subset_size=4)),
        ("torch_fidelity", "torch-fidelity", load_extractor),
        ("sklearn", "scikit-learn", lambda: measure_identity_map(ROWS, PEOPLE)),
        ("sklearn", "scikit-learn", lambda: draw_identity_map(ROWS, PEOPLE, "map.png")),
        ("matplotlib", "matplotlib", lambda: draw_identity_map(ROWS, PEOPLE, "map.png")),
        ("open_clip", "open_clip_torch", imagenet_templates),
        ("open_clip", "open_clip_torch", lambda: load_clip("ViT-B-32", "openai")),
        ("scipy", "scipy", lambda: cluster_bootstrap([1.0, 2.0], [0, 1])),
    ],
)
def test_a_missing_package_is_named_with_its_command(module, package, call, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("faceclip.metrics.errors.find_spec", lambda name: None if name == module else find(name))
    with pytest.raises(MetricUnavailableError, match=rf"pip install {package}`.*faceclip\[metrics\]"):
        call()


def test_importing_the_metrics_imports_none_of_them() -> None:
    code = (
        "import sys, faceclip.metrics; "
        "print([m for m in ('torch_fidelity', 'sklearn', 'matplotlib', 'open_clip', 'scipy', 'dlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
