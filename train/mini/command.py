"""Train a mini model as the pack's is laid out: `python -m train.mini --out RUNS`.

It goes on where it was stopped.

Every stage is a command of this package or a teacher of `train.proof`, with fixed seeds; its seconds and what
it measured are below RUNS/mini/stages. Worlds and judges are below RUNS, as a proof's are; they are a
studio's, not those of the proof. The finished files are below RUNS/mini/models; `--install` copies them into
the pack, with the notes as `models/figures.json`.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from .. import join
from ..cache import command as cache
from ..cache.features import share_faces
from ..data.shards import ShardSource
from ..data.storage import publish
from ..data.workers import EngineError
from ..finetune_sdxl import command as finetune_sdxl
from ..pretrain import command as pretrain
from ..proof.fitting import Schedule
from ..proof.groundwork import call, make_teacher, make_world, mini_towers, read_world
from ..proof.plan import MINI
from ..proof.teachers.clip import train_clip
from ..proof.teachers.quality import clip_quality
from ..proof.workshop import ProofError, Workshop, machine, stopped
from ..run.command_line import run_command
from .carry import carry_identity, identity_quality
from .curve import likeness_curve
from .export import measure_mini, new_mini_unet, summary_of, write_mini
from .joint import JointSettings, joint_config, train_joint
from .latents import cache_narrow_latents
from .sharpen import sharpen_once_more
from .words import carry_words

ROOT = Path(__file__).resolve().parents[2]


CARRY = Schedule(1500, 48, lr=1e-3)
WORDS = Schedule(500, 48, lr=1e-3)
DECODER = Schedule(10_000, 8, lr=1e-3, bf16=True)


@dataclass(frozen=True)
class Settings:
    """How large the model's own stages are; worlds, teachers and judges are the plan's."""

    size: int = 128
    """Side in pixels of the pictures that it makes."""
    pretrain: tuple[str, ...] = (
        "--steps=600",
        "--batch-size=64",
        "--lr=1e-3",
        "--warmup=30",
        "--cooldown=400",
        "--dropout=0",
        "--guided-fraction=0.25",
        "--save-every=100",
    )
    carry: Schedule = CARRY
    words: Schedule = WORDS
    finetune: tuple[str, ...] = (
        "--steps=17750",
        "--batch-size=32",
        "--lr=2e-3",
        "--warmup=100",
        "--cooldown=6000",
        "--clip-grad=0.5",
        "--betas",
        "0.9",
        "0.99",
        "--ema=0.999",
        "--drop-text=0",
        "--drop-face=0.03",
        "--drop-both=0.05",
        "--prediction=v",
        "--zero-terminal-snr",
        "--dtype=bf16",
        "--remember-conditions",
        "--save-every=1000",
        "--keep-last=20",
    )
    """v-prediction: of what noise hides, an untrained network that predicts
    the noise learns layout and colours last."""
    joint: JointSettings = field(default_factory=JointSettings)
    decoder: Schedule = DECODER
    decoder_noise: float = 0.08
    """Deviation of what is added to the latents that the decoder learns on at the end."""
    decoder_pictures: int = 8000
    decoder_squares: float = 25.0
    """Weight of squared errors beside absolute ones."""
    scenes: int = 2
    """Pictures made of each held-out person to measure it."""
    sampler_steps: int = 20
    guidance: float = 2.0


@dataclass(frozen=True)
class Recipe:
    """The stages, in order; `shop` is the folder that worlds, teachers and judges are made in."""

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
            **{f"carry {branch}": lambda branch=branch: self.carry(branch) for branch in ("l", "g")},
            "join": lambda: call(join.main, *(self.carried(branch) for branch in ("l", "g")), self.joined),
            "words": self.carry_words,
            "identity": lambda: identity_quality(self.shop, self.encoder),
            "latents": self.cache_latents,
            "finetune": self.finetune,
            "joint": self.train_joint,
            "identity afterwards": lambda: identity_quality(self.shop, self.unet / "encoder.safetensors"),
            "decoder": self.sharpen_decoder,
            **{f"judge {name}": lambda name=name: make_teacher(self.shop, name) for name in ("judge", "judge_clip")},
            "curve": self.measure_growth,
            "export": lambda: write_mini(self.shop, self.out, self.unet, self.autoencoder),
            "measure": self.measure,
        }

    @property
    def unet(self) -> Path:
        """The run whose UNet, and whose encoder, are the model's."""
        return self.out / "joint"

    @property
    def autoencoder(self) -> Path:
        """The model's: the teacher's, whose decoder has learnt what the UNet's latents are like."""
        return self.out / "autoencoder"

    @property
    def encoder(self) -> Path:
        return self.out / "encoder.safetensors"

    @property
    def people(self) -> str:
        """The shards of those it learns from."""
        return str(self.shop.shards("main", "train"))

    def clip(self, branch: str) -> Path:
        return self.shop.teacher("clip") if branch == "l" else self.out / "clip_g.safetensors"

    def run(self, branch: str) -> Path:
        return self.out / f"pretrain_{branch}"

    def carried(self, branch: str) -> Path:
        """The pretrained branch after `carry_identity`."""
        return self.out / f"carried_{branch}.safetensors"

    @property
    def joined(self) -> Path:
        """Both branches after `carry_identity`; `encoder` is what `carry_words` makes of it."""
        return self.out / "joined.safetensors"

    def train_clip_g(self) -> dict[str, Any]:
        if not self.clip("g").exists():
            train_clip(read_world(self.shop, "main", "train", "guided"), "g", self.shop.plan.clip, self.clip("g"))
        return clip_quality(self.shop, self.clip("g"), "g")

    @property
    def measuring(self) -> Workshop:
        """The same folder, with the plan that the model is measured by."""
        chosen = self.settings
        wanted = {"scenes": chosen.scenes, "sampler_steps": chosen.sampler_steps, "guidance": chosen.guidance}
        return replace(self.shop, plan=replace(self.shop.plan, size=chosen.size, **wanted))

    def measure_growth(self) -> list[dict[str, float]]:
        return likeness_curve(self.measuring, self.encoder, self.out / "finetune", self.autoencoder)

    def measure(self) -> dict[str, Any]:
        return measure_mini(self.measuring, self.out, self.unet, self.autoencoder)

    def towers(self, branch: str) -> tuple[object, ...]:
        return mini_towers(self.shop, branch, self.clip(branch))

    def cache_features(self, branch: str) -> None:
        """The face tower is one: both branches have its features, and the first one computes them."""
        common = (*self.towers(branch), "--captions")
        faces = () if branch == "l" else ("--no-faces",)
        call(cache.main, "pretrain", "--data", self.people, "--out", self.features(branch), *faces, *common)
        if faces:
            share_faces(self.features(branch), self.features("l"), ShardSource(self.people, read=("caption",)))
        guided = self.shop.shards("main", "guided")
        call(cache.main, "pretrain", "--data", guided, "--out", self.out / f"guided_{branch}", "--no-faces", *common)

    def features(self, branch: str) -> Path:
        return self.out / f"features_{branch}"

    def pretrain(self, branch: str) -> None:
        data = ("--data", self.people, "--features", self.features(branch))
        data += ("--guided", self.shop.shards("main", "guided"), "--guided-features", self.out / f"guided_{branch}")
        call(pretrain.main, "--out", self.run(branch), *data, *self.towers(branch), *self.settings.pretrain)
        _require(self.run(branch) / "encoder.safetensors")

    def carry(self, branch: str) -> dict[str, float]:
        trained = self.run(branch) / "encoder.safetensors"
        out = self.carried(branch)
        return carry_identity(trained, self.people, self.features(branch), self.settings.carry, out, self.shop.device)

    def carry_words(self) -> dict[str, float]:
        start, shop = self.joined, self.shop
        return carry_words(start, self.people, self.features("l"), self.settings.words, self.encoder, shop.device)

    def cache_latents(self) -> None:
        shop = self.shop
        vae, width, out = shop.teacher("autoencoder"), shop.plan.autoencoder_width, self.out / "latents"
        cache_narrow_latents(self.people, out, vae, width, self.settings.size, shop.device)

    def finetune(self) -> None:
        """The face tower is one: the features of one branch serve both."""
        start = self.out / "unet_start"
        new_mini_unet(start)
        caches = ("--data", self.people, "--latents", self.out / "latents", "--features", self.features("l"))
        models = ("--encoder", self.encoder, "--unet", start, "--resolution", self.settings.size)
        run = self.out / "finetune"
        graph = ("--cuda-graph",) if self.shop.device.type == "cuda" else ()
        call(finetune_sdxl.main, "--out", run, *models, *caches, *self.settings.finetune, *graph)
        _require(run / "unet")

    def train_joint(self) -> dict[str, float]:
        start = (self.encoder, self.out / "finetune" / "unet", self.out / "latents", self.features("l"))
        config = joint_config(self.settings.joint, self.unet, self.people, *start, self.settings.size)
        return train_joint(self.shop, config)

    def sharpen_decoder(self) -> dict[str, Any]:
        chosen = self.settings
        return sharpen_once_more(
            self.shop,
            self.autoencoder,
            chosen.decoder,
            noise=chosen.decoder_noise,
            most=chosen.decoder_pictures,
            squares=chosen.decoder_squares,
        )

    def note(self, stage: str) -> Path:
        """The file that says that a stage is finished."""
        return self.out / "stages" / f"{stage.replace(' ', '_')}.json"

    def figures(self) -> dict[str, Any]:
        """A summary, and what all stages noted, in order."""
        stages = [json.loads(self.note(name).read_text()) for name in self.stages]
        return {"summary": summary_of(stages), "stages": stages}

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
    """Raises ProofError unless a training run left what it leaves at its end.

    One that was asked to stop has no other sign.
    """
    if not product.exists():
        raise stopped(product.parent)


@dataclass(frozen=True)
class _Command:
    """Train the mini model. The same command goes on where a stopped one was."""

    out: Path = Path("mini_runs")
    """Folder for worlds, teachers and judges; the model's own stages go below `mini` in it."""
    only: tuple[str, ...] = ()
    """Stages to do, by name; what they need must be there. All by default."""
    threads: int = 2
    """Of torch."""
    device: Literal["cpu", "cuda"] = field(default_factory=lambda: "cuda" if torch.cuda.is_available() else "cpu")
    """Where networks learn. By default a GPU where there is one; two kinds of processor do not give the same bits."""
    install: bool = False
    """Afterwards, copy the finished files into the pack; fails while a stage is missing."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 when finished, 1 for an error that it explains."""
    return run_command(lambda: _run(argv), EngineError, level=logging.WARNING)


def _run(argv: Sequence[str] | None) -> int:
    command = tyro.cli(_Command, args=argv, prog="python -m train.mini")
    if command.device == "cuda" and not torch.cuda.is_available():
        raise ProofError("--device cuda: torch finds no CUDA device here. Leave --device out to train on the CPU.")
    recipe = Recipe(Workshop(command.out, MINI, torch.device(command.device)), command.threads)
    if unknown := sorted(set(command.only) - set(recipe.stages)):
        raise ProofError(f"There is no stage {', '.join(unknown)}. The stages are: {', '.join(recipe.stages)}.")
    recipe.make(command.only)
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
