"""What all arms share: worlds, teachers and judges, caches of what is frozen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..cache import command as cache
from ..synthetic import command as synthetic
from .fitting import Schedule
from .plan import BRANCH, SHARES, Plan, share_world
from .teachers.autoencoder import train_autoencoder
from .teachers.clip import train_clip
from .teachers.pictures import Pictures, load_pictures
from .teachers.quality import autoencoder_quality, clip_quality, face_tower_quality, judge_clip_quality, judge_quality
from .teachers.recognition import train_face_tower, train_judge
from .workshop import ProofError, Workshop

JUDGE_BRANCH = "g"
"""The judge CLIP's text tower has the other branch's shape: it shares
neither data nor architecture with the teacher."""
WORLDS = ("main", "judges", *(share_world(share) for share in SHARES))
TEACHERS = ("clip", "face_tower", "judge", "judge_clip", "autoencoder")
Values = dict[str, Any]


def world_options(plan: Plan, world: str) -> Values:
    """What `train.synthetic` is told of a world, by its flags' names."""
    share = {share_world(share): share for share in SHARES}.get(world)
    counts = {
        "main": (plan.people, plan.pictures, plan.held_out_people, plan.guided, plan.guided_held_out, 0),
        "judges": (plan.judge_people, plan.judge_pictures, 0, plan.judge_guided, 0, 1),
    }.get(world, (plan.share_people, plan.pictures, plan.share_held_out, 0, 0, 0))
    names = ("people", "pictures", "held-out-people", "guided", "guided-held-out", "seed")
    options = {**dict(zip(names, counts, strict=True)), "size": plan.world_size, "identity-share": share or 0.5}
    if plan.held_out_pictures and world == "main":
        options["held-out-pictures"] = plan.held_out_pictures
    return {**options, "studio": True} if plan.studio else options


def make_world(shop: Workshop, world: str, processes: int = 1) -> Values:
    """Write a world's shards by `train.synthetic`."""
    options = world_options(shop.plan, world)
    call(synthetic.main, shop.out / "worlds" / world, *_flags(options), "--processes", processes)
    return options


def make_teacher(shop: Workshop, name: str) -> Values:
    """Train a teacher or judge, where its file is not there yet, and measure
    it on people and objects that none has seen."""
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
        train_clip(read_world(shop, "main", "train", "guided"), BRANCH, schedule, out)
    elif name == "face_tower":
        train_face_tower(read_world(shop, "main", "train", crops=True), schedule, out, shop.plan.traits)
    elif name == "judge":
        train_judge(read_world(shop, "judges", "train", size=shop.plan.world_size), schedule, out)
    elif name == "judge_clip":
        train_clip(read_world(shop, "judges", "train", "guided"), JUDGE_BRANCH, schedule, out)
    else:
        world = read_world(shop, "main", "train", "guided", size=shop.plan.world_size)
        train_autoencoder(world, schedule, shop.plan.decoder, out, shop.plan.autoencoder_width)


def make_caches(shop: Workshop, world: str, threads: int = 1) -> Values:
    """Features and latents of a world's people and, for the main one, the guided pairs, by `train.cache`."""
    reading = ("--threads", threads)
    towers = (*mini_towers(shop, BRANCH, shop.teacher("clip")), "--captions", *reading)
    people = ("--data", shop.shards(world, "train"))
    call(cache.main, "pretrain", *people, "--out", shop.cache(world, "features"), *towers)
    if world == "main":
        guided = ("--data", shop.shards(world, "guided"), "--out", shop.cache(world, "guided"), "--no-faces")
        call(cache.main, "pretrain", *guided, *towers)
    side = ("--resolution", shop.plan.size, "--batch-size", 32, *reading)
    latents = ("--out", shop.cache(world, "latents"), "--vae", shop.teacher("autoencoder"))
    call(cache.main, "latents", *people, *latents, *side)
    return {}


def mini_towers(shop: Workshop, branch: str, clip: Path) -> tuple[object, ...]:
    """The flags that name a mini branch's frozen towers, for caches and pretraining."""
    files = ("--init-clip", clip, "--init-face", shop.teacher("face_tower"))
    return ("--branch", branch, "--size", "mini", "--teacher", "mini", *files)


def read_world(shop: Workshop, world: str, *parts: str, size: int = 0, crops: bool = False) -> Pictures:
    """Some parts of a world in the memory of the shop's device.

    `size` is the pictures' side in pixels, the plan's by default.
    """
    found = [load_pictures(shop.shards(world, part), size or shop.plan.size, crops=crops) for part in parts]
    return Pictures.cat(found).to(shop.device)


def _flags(options: dict[str, Any]) -> list[str]:
    """`--name value`, and `--name` alone for what is switched on."""
    return [text for name, value in options.items() for text in ([f"--{name}"] if value is True else [f"--{name}", str(value)])]


def call(command: Callable[[list[str]], int], *arguments: object) -> None:
    """Run a command of this package. Raises ProofError when it fails."""
    words = [str(argument) for argument in arguments]
    if command(words):
        raise ProofError(f"{command.__module__} failed; its message is above. It was called with: {' '.join(words)}")
