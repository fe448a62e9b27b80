"""What all arms share: worlds, teachers and judges, caches of what is frozen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import cache, synthetic
from .autoencoder import train_autoencoder
from .clip import train_clip
from .fitting import Schedule
from .pictures import Pictures, load_pictures
from .plan import SHARES, share_world
from .quality import autoencoder_quality, clip_quality, face_tower_quality, judge_clip_quality, judge_quality
from .recognition import train_face_tower, train_judge
from .variants import BRANCH
from .workshop import ProofError, Workshop

JUDGE_BRANCH = "g"
"""The judge CLIP's text tower has the other branch's shape: it shares neither data nor architecture with the teacher."""
WORLDS = ("main", "judges", *(share_world(share) for share in SHARES))
TEACHERS = ("clip", "face_tower", "judge", "judge_clip", "autoencoder")
Values = dict[str, Any]


def make_world(shop: Workshop, world: str) -> Values:
    """Write a world's shards by `train.synthetic`."""
    plan = shop.plan
    share = {share_world(share): share for share in SHARES}.get(world)
    counts = {
        "main": (plan.people, plan.pictures, plan.held_out_people, plan.guided, plan.guided_held_out, 0),
        "judges": (plan.judge_people, plan.judge_pictures, 0, plan.judge_guided, 0, 1),
    }.get(world, (plan.share_people, plan.pictures, plan.share_held_out, 0, 0, 0))
    names = ("people", "pictures", "held-out-people", "guided", "guided-held-out", "seed")
    options = {**dict(zip(names, counts, strict=True)), "size": plan.world_size, "identity-share": share or 0.5}
    out = shop.out / "worlds" / world
    _call(synthetic.main, [str(out), *_flags(options)])
    return options


def make_teacher(shop: Workshop, name: str) -> Values:
    """Train a teacher or judge, where its file is not there yet, and measure it on people and objects that none has seen."""
    schedule: Schedule = getattr(shop.plan, name)
    out = shop.teacher(name)
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        _train(shop, name, schedule, out)
    return {"steps": schedule.steps, "batch": schedule.batch, **_QUALITY[name](shop)}


_QUALITY: dict[str, Callable[[Workshop], Values]] = {
    "clip": clip_quality,
    "face_tower": face_tower_quality,
    "judge": judge_quality,
    "judge_clip": judge_clip_quality,
    "autoencoder": autoencoder_quality,
}


def _train(shop: Workshop, name: str, schedule: Schedule, out: Path) -> None:
    """Judges learn from the judges' world alone, teachers from the main one."""
    if name == "clip":
        train_clip(_world(shop, "main", "train", "guided"), BRANCH, schedule, out)
    elif name == "face_tower":
        train_face_tower(_world(shop, "main", "train", crops=True), schedule, out)
    elif name == "judge":
        train_judge(load_pictures(shop.shards("judges", "train"), shop.plan.world_size), schedule, out)
    elif name == "judge_clip":
        train_clip(_world(shop, "judges", "train", "guided"), JUDGE_BRANCH, schedule, out)
    else:
        train_autoencoder(_world(shop, "main", "train", "guided"), schedule, out, shop.plan.autoencoder_width)


def make_caches(shop: Workshop, world: str) -> Values:
    """Features and latents of a world's people and, for the main one, the guided pairs, by `train.cache`."""
    towers = ["--teacher", "mini", "--init-clip", str(shop.teacher("clip")), "--init-face", str(shop.teacher("face_tower"))]
    towers += ["--branch", BRANCH, "--size", "mini", "--captions", "--threads", "1"]
    people = ["--data", str(shop.shards(world, "train"))]
    _call(cache.main, ["pretrain", *people, "--out", str(shop.cache(world, "features")), *towers])
    if world == "main":
        guided = ["--data", str(shop.shards(world, "guided")), "--out", str(shop.cache(world, "guided")), "--no-faces"]
        _call(cache.main, ["pretrain", *guided, *towers])
    side = ["--resolution", str(shop.plan.size), "--threads", "1", "--batch-size", "32"]
    latents = ["--out", str(shop.cache(world, "latents")), "--vae", str(shop.teacher("autoencoder"))]
    _call(cache.main, ["latents", *people, *latents, *side])
    return {}


def _world(shop: Workshop, world: str, *parts: str, crops: bool = False) -> Pictures:
    return Pictures.cat([load_pictures(shop.shards(world, part), shop.plan.size, crops=crops) for part in parts])


def _flags(options: dict[str, Any]) -> list[str]:
    return [text for name, value in options.items() for text in (f"--{name}", str(value))]


def _call(command: Callable[[list[str]], int], arguments: list[str]) -> None:
    if command(arguments):
        raise ProofError(f"{command.__module__} failed; its message is above. It was called with: {' '.join(arguments)}")
