"""The mini files in the repository are what the script makes, small enough, and honest about themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[2]
FILES = (
    "faceclip/faceclip_mini_encoder.safetensors",
    "faceclip/faceclip_mini_unet.safetensors",
    "vae/faceclip_mini_vae.safetensors",
)


def test_the_script_makes_the_committed_files_bit_for_bit(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "scripts" / "make_mini.py"), str(tmp_path)], check=True)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (ROOT / "models" / name).read_bytes(), name


def test_all_files_together_stay_within_32_mib() -> None:
    assert {str(path.relative_to(ROOT / "models")) for path in (ROOT / "models").rglob("*.safetensors")} == set(FILES)
    assert sum((ROOT / "models" / name).stat().st_size for name in FILES) <= 32 * 2**20


@pytest.mark.parametrize("name", FILES)
def test_a_file_says_that_it_is_not_trained_and_holds_finite_weights(name: str) -> None:
    with safe_open(ROOT / "models" / name, "pt") as file:
        metadata = file.metadata()
        tensors = [file.get_tensor(key) for key in file.keys()]  # noqa: SIM118
    assert metadata["trained"] == "false" and "not trained" in metadata["note"]
    assert all(tensor.isfinite().all() for tensor in tensors)
    assert {tensor.dtype for tensor in tensors} <= {torch.bfloat16, torch.int64}
