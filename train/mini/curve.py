"""How likeness grows with what a UNet has seen: every checkpoint that
its run has kept, judged on held-out people."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from faceclip import FaceCLIPEncoder
from faceclip.sdxl_files import load_unet

from ..export import export_unet
from ..proof.arms.generation import Casting, judge_pictures, picture_scenes, small_pipeline
from ..proof.arms.measures import read_people
from ..proof.workshop import Workshop
from ..run.checkpointing import checkpoint_at, steps_in


def likeness_curve(shop: Workshop, encoder: Path, run: Path, autoencoder: Path) -> list[dict[str, float]]:
    """One picture of each held-out person by each checkpoint's moving average.

    Returns `samples` that the UNet had seen, and what the judges say: `face`, `shuffled`, `first`, `clip_t`.
    """
    shop = replace(shop, plan=replace(shop.plan, scenes=1))
    frozen = FaceCLIPEncoder.from_file(encoder).eval().requires_grad_(False)
    casting = Casting.of(shop)
    _, _, identity = read_people(frozen, shop.shards("main", "held_out"))
    curve = []
    for step in steps_in(run / "checkpoints"):
        checkpoint = checkpoint_at(run / "checkpoints", step)
        notes = json.loads((checkpoint / "run.json").read_text())
        with tempfile.TemporaryDirectory() as folder:
            export_unet(checkpoint, Path(folder))
            unet = load_unet(folder, {}, torch.float32)
        pipeline = small_pipeline(frozen, unet, run / "scheduler", autoencoder)
        made = picture_scenes(pipeline, identity, casting, shop.plan)
        judged = judge_pictures(shop, made, casting)
        curve.append({"samples": step * notes["config"]["batch_size"], **judged})
        print(f"{curve[-1]['samples']:,} samples: likeness {judged['face']:.3f}, to others {judged['shuffled']:.3f}", flush=True)
    return curve
