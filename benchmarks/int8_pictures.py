"""What int8 changes in the mini model's pictures: the same people, prompts
and noise, with the encoder's weights as they are and in int8.

    python benchmarks/int8_pictures.py [--people 40] [--sheet FILE.png]

The people are held-out ones of the mini model's world, each in one scene. *Likeness* is the judge's mean
cosine with three other pictures of the person, *first* how often nobody else is more like it; *moved*
is the mean absolute difference from the first row's pictures, in levels of 255. The sheet shows the first
people: the reference, and a picture by each.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from faceclip import FaceCLIPEncoder
from faceclip.pipeline import FaceCLIPPipeline
from train.mini.export import UNET_CONFIG
from train.proof.teachers.judge import load_trained_judge
from train.synthetic.command import World

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "models"
ENCODER = MODELS / "faceclip" / "faceclip_mini_encoder.safetensors"
KEPT = {"bf16, as the file": torch.bfloat16, "int8": torch.int8}
TRAINED_ON = 12_000
"""People of the world that the model has seen; the next numbers are held out."""
SHOWN = 8


def main(arguments: Sequence[str] | None = None) -> str:
    """Run the benchmark; print and return its table."""
    parser = argparse.ArgumentParser(description="Compare the mini model's pictures with int8 and without.")
    parser.add_argument("--people", type=int, default=40)
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args(arguments)
    world = World(seed=0, size=128, studio=True)
    people = [world.person(TRAINED_ON + number) for number in range(options.people)]
    drawn = [[world.portrait(person, world.scene_number(person.number, k)) for k in range(5)] for person in people]
    judge = load_trained_judge(ROOT / "demo" / "judge.safetensors")
    gallery = torch.stack([judge.embed(_pixels([portrait.image for portrait in row[2:]])) for row in drawn])
    made = {name: _pictures(dtype, drawn) for name, dtype in KEPT.items()}
    lines = ["| the encoder's weights | likeness | first | moved |", "|---|---:|---:|---:|"]
    plain = next(iter(made.values()))
    for name, pictures in made.items():
        scores = (judge.embed(_pixels(pictures)) @ gallery.flatten(0, 1).T).unflatten(1, gallery.shape[:2]).mean(2)
        first = float((scores.argmax(1) == torch.arange(len(scores))).float().mean())
        moved = float(np.abs(np.stack(pictures).astype(float) - np.stack(plain)).mean())
        lines.append(f"| {name} | {float(scores.diagonal().mean()):.3f} | {first:.2f} | {moved:.1f} |")
    table = "\n".join(lines)
    print(table)
    if options.sheet:
        rows = [[row[0].image for row in drawn[:SHOWN]], *(pictures[:SHOWN] for pictures in made.values())]
        Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows])).save(options.sheet)
    return table


def _pictures(kept: torch.dtype, drawn: Sequence[Sequence]) -> list[np.ndarray]:
    """Of each person, whose first portrait is the reference, in the second one's scene."""
    vae = MODELS / "vae" / "zz_faceclip_mini_vae.safetensors"
    with tempfile.TemporaryDirectory() as folder:
        unet = Path(shutil.copy(MODELS / "faceclip" / "faceclip_mini_unet.safetensors", folder))
        shutil.copy(UNET_CONFIG, unet.with_name("config.json"))  # its shape is not the release's
        pipeline = FaceCLIPPipeline.from_files(ENCODER, unet, vae=vae, device="cpu", dtype=torch.float32)
    pipeline.encoder = FaceCLIPEncoder.from_file(ENCODER, dtype=kept, compute_dtype=torch.float32).eval().requires_grad_(False)
    pipeline.sdxl.set_progress_bar_config(disable=True)
    pictures = []
    for number, row in enumerate(drawn):
        identity = pipeline.encoder.encode_faces(_pixels([row[0].face]).float() / 255)
        settings = {"width": 128, "height": 128, "steps": 20, "guidance": 2.0, "seed": number}
        (picture,) = pipeline([row[1].caption], identity, negative_prompt="", **settings)
        pictures.append(np.asarray(picture))
    return pictures


def _pixels(pictures: Sequence[np.ndarray]) -> torch.Tensor:
    """uint8 [H, W, 3] each -> [N, 3, H, W]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


if __name__ == "__main__":
    main()
