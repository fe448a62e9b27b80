"""Train a mini model as the pack's is laid out: `python -m train.mini --out RUNS`. It goes on where it was stopped.

Every stage is a command of this package or a teacher of `train.proof`, with fixed seeds; its seconds and what it measured
are below RUNS/mini/stages. Worlds and judges are those of `python -m train.proof --out RUNS`, and are made if they are not there.
The finished files are below RUNS/mini/models; `--install` copies them into the pack, with the notes as `models/figures.json`.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import tyro

from .. import join
from ..cache import command as cache
from ..data.storage import publish
from ..data.workers import EngineError
from ..finetune_sdxl import command as finetune_sdxl
from ..pretrain import command as pretrain
from ..proof.groundwork import call, make_teacher, make_world, mini_towers, read_world
from ..proof.plan import FULL
from ..proof.teachers.clip import train_clip
from ..proof.teachers.quality import clip_quality
from ..proof.workshop import Workshop, machine, stopped
from .export import measure_mini, new_mini_unet, write_mini

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Settings:
    """How large the model's own stages are; worlds, teachers and judges are the plan's."""

    size: int = 128
    """Side in pixels of the pictures that it makes."""
    shards: str = "shard-*0[0-6].tar"
    """Of the world's training people, those that the UNet learns to draw from; its refinement sees all of them."""
    pretrain: tuple[str, ...] = (
        "--steps=400",
        "--batch-size=64",
        "--lr=1e-3",
        "--warmup=20",
        "--dropout=0",
        "--guided-fraction=0.25",
    )
    finetune: tuple[str, ...] = (
        "--steps=8000",
        "--batch-size=16",
        "--lr=1e-3",
        "--warmup=100",
        "--ema=0.998",
        "--prediction=v",
        "--zero-terminal-snr",
        "--remember-conditions",
        "--save-every=250",
    )
    """v-prediction: of what noise hides, an untrained network that predicts the noise learns layout and colours last."""
    refine: tuple[str, ...] = (
        "--steps=6500",
        "--batch-size=16",
        "--lr=1e-3",
        "--warmup=200",
        "--cooldown=4500",
        "--clip-grad=0.3",
        "--weight-decay=0",
        "--ema=0.998",
        "--prediction=v",
        "--zero-terminal-snr",
        "--remember-conditions",
        "--save-every=250",
    )
    """After the first run a few rows in a hundred had gradients a hundred times as large as the rest, and clipping at 1 let every
    other step be theirs."""
    scenes: int = 2
    """Pictures made of each held-out person to measure it."""
    sampler_steps: int = 20


@dataclass(frozen=True)
class Recipe:
    """The stages, in order; `shop` is the proof's folder, from which worlds, teachers and judges come."""

    shop: Workshop
    threads: int = 1
    settings: Settings = field(default_factory=Settings)

    @property
    def out(self) -> Path:
        return self.shop.out / "mini"

    @cached_property
    def stages(self) -> dict[str, Callable[[], Any]]:
        """Name -> what does it; its return value is noted."""
        return {
            **{f"world {world}": lambda world=world: make_world(self.shop, world, self.threads) for world in ("main", "judges")},
            **{
                f"teacher {name}": lambda name=name: make_teacher(self.shop, name)
                for name in ("clip", "face_tower", "autoencoder")
            },
            "teacher clip g": self.train_clip_g,
            **{f"features {branch}": lambda branch=branch: self.cache_features(branch) for branch in ("l", "g")},
            **{f"pretrain {branch}": lambda branch=branch: self.pretrain(branch) for branch in ("l", "g")},
            "join": lambda: call(join.main, *(self.run(b) / "encoder.safetensors" for b in ("l", "g")), self.encoder),
            "latents": lambda: self.cache_latents(self.finetune_data, self.out / "latents"),
            "finetune": self.finetune,
            "latents of all": lambda: self.cache_latents(self.all_people, self.out / "latents_all"),
            "refine": self.refine,
            **{f"judge {name}": lambda name=name: make_teacher(self.shop, name) for name in ("judge", "judge_clip")},
            "export": lambda: write_mini(self.shop, self.out, self.encoder, self.unet),
            "measure": self.measure,
        }

    @property
    def unet(self) -> Path:
        """The run whose UNet is the model's."""
        return self.out / "refine"

    @property
    def encoder(self) -> Path:
        return self.out / "encoder.safetensors"

    @property
    def finetune_data(self) -> str:
        return f"{self.all_people}/{self.settings.shards}"

    @property
    def all_people(self) -> str:
        return str(self.shop.shards("main", "train"))

    def clip(self, branch: str) -> Path:
        return self.shop.teacher("clip") if branch == "l" else self.out / "clip_g.safetensors"

    def run(self, branch: str) -> Path:
        return self.out / f"pretrain_{branch}"

    def train_clip_g(self) -> dict[str, Any]:
        if not self.clip("g").exists():
            train_clip(read_world(self.shop, "main", "train", "guided"), "g", self.shop.plan.clip, self.clip("g"))
        return clip_quality(self.shop, self.clip("g"), "g")

    def measure(self) -> dict[str, Any]:
        chosen = self.settings
        plan = replace(self.shop.plan, size=chosen.size, scenes=chosen.scenes, sampler_steps=chosen.sampler_steps)
        return measure_mini(replace(self.shop, plan=plan), self.out, self.unet)

    def towers(self, branch: str) -> tuple[object, ...]:
        return mini_towers(self.shop, branch, self.clip(branch))

    def cache_features(self, branch: str) -> None:
        common = (*self.towers(branch), "--captions")
        people, guided = (self.shop.shards("main", part) for part in ("train", "guided"))
        call(cache.main, "pretrain", "--data", people, "--out", self.out / f"features_{branch}", *common)
        call(cache.main, "pretrain", "--data", guided, "--out", self.out / f"guided_{branch}", "--no-faces", *common)
        if branch == "l":  # the face tower is the same for both
            call(cache.main, "pretrain", "--data", self.finetune_data, "--out", self.out / "features_finetune", *common)

    def pretrain(self, branch: str) -> None:
        people, guided = (self.shop.shards("main", part) for part in ("train", "guided"))
        data = ("--data", people, "--features", self.out / f"features_{branch}")
        data += ("--guided", guided, "--guided-features", self.out / f"guided_{branch}")
        call(pretrain.main, "--out", self.run(branch), *data, *self.towers(branch), *self.settings.pretrain)
        _require(self.run(branch) / "encoder.safetensors")

    def cache_latents(self, data: str, out: Path) -> None:
        where = ("--data", data, "--out", out, "--vae", self.shop.teacher("autoencoder"))
        call(cache.main, "latents", *where, "--resolution", self.settings.size, "--batch-size", 16)

    def finetune(self) -> None:
        start = self.out / "unet_start"
        new_mini_unet(start)
        caches = ("--latents", self.out / "latents", "--features", self.out / "features_finetune")
        self._train_unet("finetune", start, ("--data", self.finetune_data, *caches, *self.settings.finetune))

    def refine(self) -> None:
        """Go on with all people, to a learning rate of nearly zero. The face tower is one: its features serve both branches."""
        caches = ("--latents", self.out / "latents_all", "--features", self.out / "features_l")
        self._train_unet("refine", self.out / "finetune" / "unet", ("--data", self.all_people, *caches, *self.settings.refine))

    def _train_unet(self, run: str, start: Path, options: Sequence[object]) -> None:
        models = ("--encoder", self.encoder, "--unet", start, "--resolution", self.settings.size)
        call(finetune_sdxl.main, "--out", self.out / run, *models, *options)
        _require(self.out / run / "unet")

    def note(self, stage: str) -> Path:
        """The file that says that a stage is finished."""
        return self.out / "stages" / f"{stage.replace(' ', '_')}.json"

    def figures(self) -> list[dict[str, Any]]:
        """What all stages noted, in order."""
        return [json.loads(self.note(name).read_text()) for name in self.stages]

    def make(self, only: Sequence[str] = ()) -> None:
        """Do what is missing, in order; raises ProofError for a command that failed, which has said why."""
        torch.set_num_threads(self.threads)
        self.out.mkdir(parents=True, exist_ok=True)
        self.shop.claim()
        for name, do in self.stages.items():
            path = self.note(name)
            if path.is_file() or (only and name not in only):
                continue
            print(f"== {name}", flush=True)
            began, cpu = time.perf_counter(), time.process_time()
            found = do()
            path.parent.mkdir(exist_ok=True)
            spent = {"seconds": round(time.perf_counter() - began, 1), "cpu_seconds": round(time.process_time() - cpu, 1)}
            noted = {"stage": name, **spent, "threads": self.threads, "machine": machine(), "found": found}
            publish(str(path), json.dumps(noted, indent=1).encode())


def _require(product: Path) -> None:
    """Raises ProofError unless a training run left what it leaves at its end; one that was asked to stop has no other sign."""
    if not product.exists():
        raise stopped(product.parent)


@dataclass(frozen=True)
class _Command:
    """Train the mini model. The same command goes on where a stopped one was."""

    out: Path = Path("proof_runs")
    """Folder of the proof, for its worlds, teachers and judges; what is made here goes below `mini` in it."""
    only: tuple[str, ...] = ()
    """Stages to do, by name; what they need must be there. All by default."""
    threads: int = 2
    """Of torch."""
    install: bool = False
    """Afterwards, copy the finished files into the pack; fails while a stage is missing."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 when finished, 1 for an error that it explains."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    command = tyro.cli(_Command, args=argv, prog="python -m train.mini")
    recipe = Recipe(Workshop(command.out, FULL), command.threads)
    if unknown := sorted(set(command.only) - set(recipe.stages)):
        print(f"There is no stage {', '.join(unknown)}. The stages are: {', '.join(recipe.stages)}.", file=sys.stderr)
        return 1
    try:
        recipe.make(command.only)
    except (ValueError, EngineError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    if missing := [name for name in recipe.stages if not recipe.note(name).is_file()]:
        print(f"Still to do: {', '.join(missing)}.")
        return 1 if command.install else 0
    print(f"The mini model is in {recipe.out / 'models'}.")
    if command.install:
        shutil.copytree(recipe.out / "models", ROOT / "models", dirs_exist_ok=True)
        publish(str(ROOT / "models" / "figures.json"), json.dumps(recipe.figures(), indent=1).encode() + b"\n")
        shutil.copyfile(recipe.out / "judge.safetensors", ROOT / "demo" / "judge.safetensors")
        print(f"It was copied to {ROOT / 'models'}, and the judge that measured it to {ROOT / 'demo'}.")
    return 0
