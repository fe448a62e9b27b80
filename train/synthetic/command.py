"""A synthetic world of pictures, with no licence attached: `python -m train.synthetic OUT`.

    python -m train.synthetic OUT --people 1000 --pictures 16 --size 64 --held-out-people 100 --guided 4000
    python -m train.synthetic OUT --studio --people 12000 --pictures 2 --size 128       # close-ups, easier to learn

OUT gets shards in `train`, `held_out` (other people), `guided` and `guided_held_out` (objects, no face), and
a contact sheet. Identity is 24 latent factors of a face; pose, expression and light are nuisance; captions
tell clothes, place, accessories and framing, never who it is. A run that was stopped goes on with the same
command.

    world = World(seed=0, size=64)
    portrait = world.portrait_from(world.person(7), world.scene(3))   # .image, .face, .landmarks, .caption, .scene
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import tyro
from PIL import Image
from tqdm import tqdm

from ..data.made_with import claim
from ..data.shard_index import INDEX_SUFFIX
from ..data.shards import Sample, write_shard
from ..data.storage import join, publish, size_of
from ..data.workers import EngineError, run
from ..run.command_line import run_command
from .objects import CLASSES, ObjectPicture
from .people import LATENTS, Person
from .portrait import Portrait, World
from .scenes import Scene
from .sheet import contact_sheet, explained_by_identity

__all__ = [
    "CLASSES",
    "LATENTS",
    "ObjectPicture",
    "Person",
    "Portrait",
    "Scene",
    "World",
    "WorldOptions",
    "contact_sheet",
    "explained_by_identity",
    "make_world",
    "portrait_sample",
]

PLAN = "world.json"
_HELD_OUT_OBJECTS = 1 << 40
"""Numbers of held-out object pictures start here."""

Part = Literal["train", "held_out", "guided", "guided_held_out"]
Job = tuple[Part, int, tuple[int, ...]]
"""Which part, which shard of it, and the numbers of its people or objects."""


class SyntheticError(ValueError):
    """The world cannot be written as asked: what is wrong and what to do."""


@dataclass(frozen=True)
class WorldOptions:
    """What decides the shards' contents; a resumed run must have the same."""

    people: int = 1000
    """People to train on."""
    pictures: int = 16
    """Pictures of each person."""
    size: int = 64
    """Side of the pictures in pixels; crops of faces have 448."""
    held_out_people: int = 100
    """Other people, for judgement alone."""
    held_out_pictures: int = 0
    """Pictures of each of them; 0 is as many as of the people to train on."""
    guided: int = 4000
    """Pictures of objects, with captions and no face."""
    guided_held_out: int = 400
    """Other pictures of the same 40 classes."""
    identity_share: float = 0.5
    """How much of a picture identity explains, in (0, 1]: below one half people look more
    alike, and they are shown larger the higher it is (see `World`)."""
    studio: bool = False
    """Close-ups in one light whose captions also tell pose and expression (see
    `draw_studio`): a UNet learns to draw them from a fraction of the samples."""
    seed: int = 0
    """Of the world: other seeds give other people, scenes and objects."""
    shard_size: int = 1000
    """Samples per shard, about: a person's pictures stay together."""

    def pictures_of(self, part: Part) -> int:
        """Pictures of each person, or of each object, of a part."""
        if part.startswith("guided"):
            return 1
        return self.held_out_pictures or self.pictures if part == "held_out" else self.pictures

    def world(self) -> World:
        return World(self.seed, self.size, self.identity_share, self.studio)


def make_world(out: str, options: WorldOptions, processes: int = 1) -> Iterator[int]:
    """Write what is missing of a world; yields how many samples each shard has, those already there first.

    Args:
        out: a folder or fsspec URL.

    Raises:
        SyntheticError: `out` holds a world made with other options, or an option is out of range.
        EngineError: a worker process died.
    """
    jobs = _jobs(options)
    _claim(out, options)
    missing = [job for job in jobs if size_of(_path(out, job) + INDEX_SUFFIX) is None]
    for job in jobs:
        if job not in missing:
            yield _samples_of(job, options)
    yield from run("processes", _Work(out, options), missing, processes)
    sheet = join(out, "contact_sheet.jpg")
    if size_of(sheet) is None:
        publish(sheet, _jpeg(Image.fromarray(contact_sheet(options.world())), 76))


def portrait_sample(portrait: Portrait, key: str) -> Sample:
    """A portrait as a training sample: picture, aligned face, caption, and in `meta` all that is known."""
    meta = {
        "identity": portrait.person.number,
        "landmarks": portrait.landmarks.round(3).tolist(),
        "latents": dict(zip(LATENTS, portrait.person.latents.round(5).tolist(), strict=True)),
        "scene": portrait.scene.attributes(),
    }
    image, face = _jpeg(Image.fromarray(portrait.image), 94), _jpeg(Image.fromarray(portrait.face), 88)
    return Sample(key, image, face, portrait.caption, meta)


def object_sample(picture: ObjectPicture, key: str) -> Sample:
    """A picture of an object as an image-text pair."""
    meta = {"class": picture.name, "colour": picture.colour, "place": picture.place}
    return Sample(key, _jpeg(Image.fromarray(picture.image), 94), None, picture.caption, meta)


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=quality, subsampling=0)  # at 64 px halved colours show
    return data.getvalue()


@dataclass(frozen=True)
class _Work:
    """Makes one shard. Sent to the worker processes."""

    out: str
    options: WorldOptions

    def __call__(self, job: Job) -> int:
        return write_shard(_path(self.out, job), self._samples(job))

    def _samples(self, job: Job) -> Iterator[Sample]:
        part, _, numbers = job
        world = self.options.world()
        for number in numbers:
            if part in ("guided", "guided_held_out"):
                name = CLASSES[number % len(CLASSES)]
                key = f"{name.replace(' ', '_')}-{number % _HELD_OUT_OBJECTS:06d}"
                yield object_sample(world.object_picture(name, number), key)
                continue
            person = world.person(number)
            for k in range(self.options.pictures_of(part)):
                yield portrait_sample(world.portrait(person, world.scene_number(number, k)), f"p{number:06d}-{k:04d}")


def _jobs(options: WorldOptions) -> list[Job]:
    parts: dict[Part, tuple[int, int]] = {
        "train": (0, options.people),
        "held_out": (options.people, options.held_out_people),
        "guided": (0, options.guided),
        "guided_held_out": (_HELD_OUT_OBJECTS, options.guided_held_out),
    }
    jobs: list[Job] = []
    for part, (first, count) in parts.items():
        per_shard = max(1, options.shard_size // max(options.pictures_of(part), 1))
        for shard, start in enumerate(range(first, first + count, per_shard)):
            jobs.append((part, shard, tuple(range(start, min(start + per_shard, first + count)))))
    return jobs


def _samples_of(job: Job, options: WorldOptions) -> int:
    return len(job[2]) * options.pictures_of(job[0])


def _path(out: str, job: Job) -> str:
    return join(join(out, job[0]), f"shard-{job[1]:06d}.tar")


def _claim(out: str, options: WorldOptions) -> None:
    """Check the options, and note in `out` what it is made with or that it is made with the same."""
    counts = (options.people, options.held_out_people, options.held_out_pictures, options.guided, options.guided_held_out)
    if min(counts) < 0 or options.pictures < 1 or options.shard_size < 1:
        raise SyntheticError("Numbers of people, pictures and objects must not be negative, pictures and shard_size at least 1.")
    options.world()  # raises for a size or share out of range
    try:
        claim(out, PLAN, "a world", asdict(options), older=asdict(WorldOptions()))
    except ValueError as error:
        raise SyntheticError(str(error)) from error


@dataclass(frozen=True)
class _Command:
    """Write a synthetic world as shards for training. The same command goes on where a stopped run was."""

    out: tyro.conf.Positional[str]
    """Folder (or URL) for the shards."""
    options: WorldOptions
    processes: int = 1
    """Processes that draw at once."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 when finished, 1 for an error that it explains."""
    return run_command(lambda: _run(argv), EngineError)


def _run(argv: Sequence[str] | None) -> None:
    command = tyro.cli(tyro.conf.OmitArgPrefixes[_Command], args=argv, prog="python -m train.synthetic")
    total = sum(_samples_of(job, command.options) for job in _jobs(command.options))
    with tqdm(desc="synthetic", unit=" pictures", total=total) as bar:
        for count in make_world(command.out, command.options, command.processes):
            bar.update(count)
    print(f"{total:,} samples in {Path(command.out)}, and {join(command.out, 'contact_sheet.jpg')} to look at.")
