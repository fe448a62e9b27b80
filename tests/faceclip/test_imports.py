"""What the library and the command line import: not torch's compiler,
891 modules and more than a second for nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from faceclip import FaceCLIPConfig, FaceCLIPEncoder

ROOT = Path(__file__).resolve().parents[2]
PERSON = ROOT / "models" / "people" / "ada.jpg"
SLOW = ("torch._dynamo", "torchvision", "timm", "diffusers", "transformers")

LIBRARY = """
import torch
import faceclip
encoder = faceclip.FaceCLIPEncoder.from_file({encoder!r}, dtype=torch.{dtype})
person = encoder.encode_faces(torch.rand(1, 3, 448, 448))
encoder.encode_with_negative(["a (man:1.2)"], ["blurry"], person, strength=0.5)
"""
COMMAND_LINE = """
from faceclip.cli import main
assert not main({line!r})
"""
LINES = (
    ["detect", str(PERSON), "--backend", "yunet", "--out-dir", "OUT"],
    ["encode", "--encoder", "TINY", "--prompt", "a (man:1.2)", "--strength", "0.5", "--out", "OUT/c.safetensors"],
    ["convert", "TINY", "OUT/converted.safetensors"],
)


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tiny") / "encoder.safetensors"
    FaceCLIPEncoder(FaceCLIPConfig.preset("tiny")).save(path)
    return str(path)


@pytest.mark.program
def test_library_and_command_line_work_without_torchs_compiler(tiny_file: str, tmp_path: Path) -> None:
    programs = {dtype: LIBRARY.format(encoder=tiny_file, dtype=dtype) for dtype in ("float32", "bfloat16")}
    for line in LINES:
        words = [tiny_file if word == "TINY" else word.replace("OUT", str(tmp_path)) for word in line]
        programs[line[0]] = COMMAND_LINE.format(line=words)
    # One fresh Python for all: what one of them imports stays.
    told = f"print('after', {{name!r}}, [name for name in {SLOW} if name in sys.modules])\n"
    whole = "import sys\n" + "".join(program + told.format(name=name) for name, program in programs.items())
    done = subprocess.run([sys.executable, "-c", whole], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [line for line in done.stdout.splitlines() if line.startswith("after ")]
    assert found == [f"after {name} []" for name in programs]


def test_networks_made_without_values_have_none_and_others_are_drawn() -> None:
    from torch.nn import Linear

    from faceclip.ops import without_values

    with without_values():
        nothing = Linear(8, 8)
        encoder = FaceCLIPEncoder(FaceCLIPConfig.preset("tiny"))
    assert nothing.weight.is_meta and all(p.is_meta for p in encoder.parameters())
    drawn = FaceCLIPEncoder(FaceCLIPConfig.preset("tiny"))
    for name, parameter in drawn.named_parameters():
        if parameter.ndim > 1 and not name.endswith(("sampling_offsets.weight", "attention_weights.weight")):
            assert parameter.std() > 1e-3, name
    assert 0.018 < drawn.face_clip_l.face_encoder.pos_embed.std() < 0.022
    assert 0.009 < drawn.face_clip_g.positional_embedding.std() < 0.011
