"""What the proof compares and how long each part runs: arms, sweeps, and two sizes of the whole thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .fitting import Schedule

Term = Literal["image", "identity", "text"]
Variant = Literal["release", "plain", "fused token"]
Start = Literal["pretrained", "joint", "untrained"]

LAMBDA = 0.25
"""Share of guided rows where nothing else is said."""
SHARES = (0.25, 0.5, 1.0)
"""How much of a picture identity explains, in the sweep's worlds."""
LAMBDAS = (0.0, 0.1, 0.25, 0.5)
BATCHES = (0.5, 1.0, 2.0)
"""Of the plan's batch."""


@dataclass(frozen=True)
class Arm:
    """One way to train: what differs from L3, the paper's choice."""

    name: str
    terms: tuple[Term, ...] = ("image", "identity", "text")
    guided_fraction: float = LAMBDA
    batch: float = 1.0
    """Pretraining batch, as a multiple of the plan's."""
    variant: Variant = "release"
    """`plain`: the paper's self-attention of face patches; `fused token`: identity in the identity token alone."""
    start: Start = "pretrained"
    """What the UNet is trained on: a pretrained encoder, one that is trained with it, or one as initialised."""
    world: str = "main"
    finetuned: bool = True
    """Whether a UNet is trained on it; sweeps of pretraining look at the encoder alone."""
    sweep: bool = False
    """Whether it belongs to a sweep, which has fewer seeds."""

    @property
    def slug(self) -> str:
        return self.name.lower().replace(" ", "-")


@dataclass(frozen=True)
class Plan:
    """How large everything is. `quick` proves that the commands work, `full` is what docs/proof.md reports."""

    name: str
    people: int
    pictures: int
    held_out_people: int
    guided: int
    guided_held_out: int
    judge_people: int
    """People of the second world, on which the judges are trained."""
    judge_pictures: int
    """Of each of them."""
    judge_guided: int
    share_people: int
    """People of each world of the identity share's sweep."""
    share_held_out: int
    """And others of each, for judgement."""
    clip: Schedule
    face_tower: Schedule
    judge: Schedule
    judge_clip: Schedule
    autoencoder: Schedule
    decoder: Schedule
    """Of the autoencoder, after both halves."""
    pretrain_steps: int
    pretrain_batch: int
    base_steps: int
    """Of the UNet that all arms of the main world start from."""
    finetune_steps: int
    """From there."""
    share_steps: int
    """Of UNets in the worlds of the identity share's sweep, which start from nothing."""
    finetune_batch: int
    """Of all UNets."""
    unet_widths: tuple[int, ...]
    scenes: int
    """Pictures generated of each held-out person, each in a scene of its own."""
    sampler_steps: int
    seeds: int
    sweep_seeds: int
    autoencoder_width: int | tuple[int, ...] = 32
    """Channels of all layers, or of each resolution from the full one down."""
    traits: float = 0.0
    """Weight in the face tower's loss of naming the world's factors, beside telling people apart."""
    studio: bool = False
    """Whether the worlds are studios: close-ups whose captions tell pose and expression, too."""
    held_out_pictures: int = 0
    """Of each held-out person; 0 is as many as of the others."""
    pretrain_lr: float = 1e-3
    finetune_lr: float = 1e-3
    ema: float = 0.99
    guidance: float = 2.0
    templates: int = 80
    """ImageNet's sentences that zero-shot classification averages over: all
    80, but for plans that only try the commands."""
    world_size: int = 128
    """Side in pixels of the pictures as they are drawn and as the judge reads real ones."""
    size: int = 64
    """Side in pixels of what the teachers read and the UNets make."""
    save_every: int = 200

    def seeds_of(self, arm: Arm) -> range:
        return range(min(self.seeds, self.sweep_seeds) if arm.sweep else self.seeds)


def share_world(share: float) -> str:
    return f"share-{share:g}"


def arms() -> list[Arm]:
    """All arms, those of the sweeps last."""
    main = [
        Arm("L3"),
        Arm("L2", terms=("image", "identity")),
        Arm("L1", terms=("image",)),
        Arm("no guided", guided_fraction=0.0),
        Arm("diffusion only", start="joint"),
        Arm("untrained", start="untrained"),
        Arm("plain", variant="plain"),
        Arm("fused token", variant="fused token"),
    ]
    return [*main, *_sweeps()]


def lambda_arm(value: float) -> str:
    """The arm of a sweep's value; two of the values are arms of the main table."""
    return {0.0: "no guided", LAMBDA: "L3"}.get(value, f"lambda {value:g}")


def batch_arm(factor: float) -> str:
    return "L3" if factor == 1 else f"batch x{factor:g}"


def share_arm(share: float, kind: str) -> str:
    """`kind` is "L3" or "diffusion only"."""
    return f"share {share:g} {kind}"


def _sweeps() -> list[Arm]:
    lambdas = [Arm(lambda_arm(x), guided_fraction=x, finetuned=False, sweep=True) for x in LAMBDAS if x not in (0, LAMBDA)]
    batches = [Arm(batch_arm(x), batch=x, finetuned=False, sweep=True) for x in BATCHES if x != 1]
    shares = []
    for share in SHARES:
        world = share_world(share)
        shares.append(Arm(share_arm(share, "diffusion only"), start="joint", world=world, sweep=True))
        shares.append(Arm(share_arm(share, "L3"), world=world, finetuned=False, sweep=True))
    return [*lambdas, *batches, *shares]


QUICK = Plan(
    name="quick",
    people=48,
    pictures=8,
    held_out_people=12,
    guided=400,
    guided_held_out=80,
    judge_people=40,
    judge_pictures=8,
    judge_guided=400,
    share_people=16,
    share_held_out=12,
    clip=Schedule(60, 64),
    face_tower=Schedule(40, 32),
    judge=Schedule(40, 32),
    judge_clip=Schedule(40, 64),
    autoencoder=Schedule(40, 8),
    decoder=Schedule(20, 8),
    pretrain_steps=20,
    pretrain_batch=16,
    base_steps=30,
    finetune_steps=30,
    share_steps=30,
    finetune_batch=16,
    unet_widths=(32, 64),
    scenes=2,
    sampler_steps=6,
    seeds=2,
    sweep_seeds=1,
    ema=0.9,
    templates=4,
    world_size=64,
)

FULL = Plan(
    name="full",
    people=1000,
    pictures=12,
    held_out_people=100,
    guided=4000,
    guided_held_out=400,
    judge_people=600,
    judge_pictures=10,
    judge_guided=3000,
    share_people=120,
    share_held_out=40,
    clip=Schedule(900, 96, lr=2e-3),
    face_tower=Schedule(1100, 64, lr=1.5e-3),
    judge=Schedule(900, 64, lr=2e-3),
    judge_clip=Schedule(900, 96, lr=2e-3),
    autoencoder=Schedule(2400, 8, lr=2e-3),
    decoder=Schedule(2000, 8, lr=1e-3),
    pretrain_steps=160,
    pretrain_batch=64,
    base_steps=2000,
    finetune_steps=160,
    share_steps=300,
    finetune_batch=128,
    unet_widths=(32, 64),
    scenes=4,
    sampler_steps=12,
    seeds=5,
    sweep_seeds=3,
    ema=0.99,
)

MINI = Plan(
    name="mini",
    people=12_000,
    pictures=2,
    held_out_people=100,
    held_out_pictures=8,
    guided=4000,
    guided_held_out=400,
    judge_people=4000,
    judge_pictures=3,
    judge_guided=3000,
    share_people=0,
    share_held_out=0,
    studio=True,
    traits=10.0,
    clip=Schedule(1500, 96, lr=2e-3),
    face_tower=Schedule(2500, 64, lr=1.5e-3),
    judge=Schedule(3000, 64, lr=2e-3, bf16=True),
    judge_clip=Schedule(1200, 96, lr=2e-3),
    autoencoder=Schedule(3000, 8, lr=2e-3, bf16=True),
    decoder=Schedule(6000, 8, lr=1.5e-3, bf16=True),
    autoencoder_width=(16, 32, 64, 64),
    pretrain_steps=1500,
    pretrain_batch=64,
    base_steps=0,
    finetune_steps=0,
    share_steps=0,
    finetune_batch=32,
    unet_widths=(64, 64, 128),
    scenes=2,
    sampler_steps=20,
    seeds=1,
    sweep_seeds=1,
)
"""The world, teachers and judges of the mini model that comes with the pack (`train.mini`); it has no arms."""

BRANCH = "l"
