"""Converting streams: the file is never held as a whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from pathlib import Path
import torch
from faceclip import FaceCLIPConfig, FaceCLIPEncoder, config
from faceclip.checkpoint import read_state_dict
from faceclip.convert import convert
from faceclip.config import BranchConfig, FaceTowerConfig, FusionConfig, TextTowerConfig

def encoder(width, layers):
    fusion = FusionConfig(layers=1, cross_width=64, text_feedforward=64, face_feedforward=64)
    face = FaceTowerConfig(width=32, layers=1, heads=4, classes=16)
    text = TextTowerConfig(width, layers, heads=4, activation="gelu", vocabulary=1000)
    return FaceCLIPEncoder(FaceCLIPConfig({"g": BranchConfig(text, face, fusion)}))

def peak():
    # The most memory this process has had, in bytes. On Linux ru_maxrss starts from what the parent had.
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def write(sizes, path):
    with torch.device("meta"):
        blank = encoder(*sizes)
    blank.to_empty(device="cpu")
    for tensor in blank.state_dict().values():
        tensor.zero_()  # random values take longer to make than to convert
    blank.save(path) if path.suffix == ".safetensors" else torch.save(blank.state_dict(), path)

folder, suffix = Path(sys.argv[1]), sys.argv[2]
if suffix == "all":
    for each in (".pt", ".safetensors"):
        write((64, 1), folder / f"small{each}")
        write((512, 24), folder / f"large{each}")
else:
    small, large = folder / f"small{suffix}", folder / f"large{suffix}"
    # A torch file has no metadata: its sizes must be a preset's.
    for name, sizes in (("small", (64, 1)), ("large", (512, 24))):
        with torch.device("meta"):
            config.PRESETS[name] = encoder(*sizes).config
    convert(small, folder / "small_out.safetensors", torch.bfloat16)
    before = peak()
    convert(large, folder / "large_out.safetensors", torch.bfloat16)
    grown = peak()
    held = read_state_dict(large)  # the control: this much shows when the whole file is held
    print(grown - before, peak() - before)
"""
pytestmark = pytest.mark.program
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small and a large file of each kind."""
    folder = tmp_path_factory.mktemp("encoders")
    subprocess.run([sys.executable, "-c", SCRIPT, str(folder), "all"], check=True, env=ENVIRONMENT)
    return folder


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_converting_a_large_file_takes_little_memory(suffix: str, written: Path) -> None:
    """Peak memory grows by less than a third of the file: it is never held as a whole, nor is one branch of it."""
    size = (written / f"large{suffix}").stat().st_size
    assert size > 300e6
    run = [sys.executable, "-c", SCRIPT, str(written), suffix]
    done = subprocess.run(run, check=True, env=ENVIRONMENT, capture_output=True, text=True)
    growth, when_held = (int(word) for word in done.stdout.split())
    # Before the file was opened the process may have had more memory than it then used: what the control does not show.
    hidden = size - when_held
    assert growth + hidden < size / 3
    assert size / 2.2 < (written / "large_out.safetensors").stat().st_size < size / 1.8
