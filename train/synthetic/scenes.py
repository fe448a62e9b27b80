"""What a portrait shows besides the person: what the caption tells, and the nuisance that it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from .canvas import Colour
from .features import Expression
from .light import Light
from .surface import Pose

COLOURS: dict[str, Colour] = {
    "red": (0.82, 0.14, 0.15),
    "orange": (0.95, 0.52, 0.12),
    "yellow": (0.96, 0.83, 0.20),
    "green": (0.18, 0.60, 0.26),
    "turquoise": (0.15, 0.68, 0.68),
    "blue": (0.16, 0.32, 0.80),
    "purple": (0.50, 0.20, 0.65),
    "pink": (0.95, 0.55, 0.70),
    "brown": (0.45, 0.28, 0.16),
    "white": (0.95, 0.95, 0.93),
    "grey": (0.52, 0.53, 0.55),
    "black": (0.10, 0.10, 0.11),
}
PLACES = (
    "beach",
    "forest",
    "city",
    "mountains",
    "desert",
    "meadow",
    "library",
    "living room",
    "night",
    "sunset",
    "brick wall",
    "plain wall",
    "autumn park",
    "space",
)
CLOTHES = ("t-shirt", "shirt", "hoodie", "sweater", "suit", "tank top", "turtleneck", "coat")
PATTERNS = ("plain", "striped", "polka-dot", "checked")
HEADWEAR = ("beanie", "baseball cap", "straw hat", "top hat", "hard hat", "crown", "headphones")
GLASSES = ("round", "square")
FRAMINGS = ("close-up", "bust", "half-length")
SIDES = ("left", "centre", "right")
TURNS = {"": 0.0, "left": -0.38, "right": 0.38}
"""Yaw of heads that captions say are turned."""
MOODS = {
    "": Expression(smile=0.1, open=0.0, brows=0.0, lids=0.92, gaze=0.0),
    "smiling": Expression(smile=0.9, open=0.0, brows=0.2, lids=0.88, gaze=0.0),
    "laughing": Expression(smile=0.9, open=0.6, brows=0.5, lids=0.85, gaze=0.0),
    "sad": Expression(smile=-0.7, open=0.0, brows=0.6, lids=0.80, gaze=0.0),
    "surprised": Expression(smile=0.0, open=0.75, brows=1.0, lids=1.0, gaze=0.0),
}
"""What captions say of a face, and what it does then."""
_SIDE_OF_VIEW = {"studio": 2.8, "close-up": 2.9, "bust": 4.0, "half-length": 5.8}
_HEIGHT_IN_VIEW = {"studio": 0.514, "close-up": 0.52, "bust": 0.42, "half-length": 0.31}


@dataclass(frozen=True)
class Scene:
    """One scene. The first part is what captions tell, the second nuisance; neither knows the person."""

    place: str
    place_colour: str
    """The colour of a plain wall."""
    clothes: str
    colour: str
    pattern: str
    second_colour: str
    """The pattern's, a suit's tie, what is worn below a coat."""
    headwear: str
    """Empty for none."""
    headwear_colour: str
    glasses: str
    """The shape of their frame, empty for none."""
    glasses_colour: str
    scarf: str
    """Its colour, empty for none."""
    framing: str
    side: str

    yaw: float
    pitch: float
    roll: float
    """Radians, see `Pose`."""
    shift: tuple[float, float]
    """Of the head over the body, in scene units."""
    expression: Expression
    light_from: tuple[float, float]
    """Azimuth and height of the lamp in radians."""
    warmth: float
    strength: float
    seed: int
    """Of the place's details, the caption's wording, and the camera's noise."""
    mood: str = ""
    """What the caption says of the face, one of MOODS; empty where it says nothing."""
    turn: str = ""
    """Where the caption says that the head is turned, one of TURNS."""

    @property
    def studio(self) -> bool:
        """Whether the picture follows from person and caption alone, but for a little."""
        return self.framing == "studio"

    def pose(self) -> Pose:
        return Pose(self.yaw, self.pitch, self.roll, self.shift)

    def light(self) -> Light:
        return Light.of(*self.light_from, self.warmth, self.strength)

    def frame(self, zoom: float = 1.0) -> tuple[float, float, float]:
        """(left, top, side) of the square that the picture shows, in scene units; `zoom` enlarges the person."""
        side = _SIDE_OF_VIEW[self.framing] / zoom
        across = {"left": 0.34, "centre": 0.5, "right": 0.66}[self.side]
        return -across * side, -_HEIGHT_IN_VIEW[self.framing] * side, side

    def random(self, purpose: int) -> np.random.Generator:
        """Randomness of the scene's own, a stream for each purpose."""
        return np.random.default_rng((self.seed, purpose))

    def attributes(self) -> dict[str, Any]:
        """Everything, as JSON knows it."""
        return asdict(self)


def draw_scene(random: np.random.Generator) -> Scene:
    """A scene at random."""
    pick, sometimes = partial(_pick, random), partial(_sometimes, random)
    colours = list(COLOURS)
    colour = pick(colours)
    clothes = pick(CLOTHES)
    plain = clothes in ("suit", "coat") or random.random() < 0.5
    framing = pick(FRAMINGS)
    return Scene(
        place=pick(PLACES),
        place_colour=pick(colours),
        clothes=clothes,
        colour=colour,
        pattern="plain" if plain else pick(PATTERNS[1:]),
        second_colour=pick([name for name in colours if name != colour]),
        headwear=sometimes(0.45, HEADWEAR),
        headwear_colour=pick(colours),
        glasses=sometimes(0.25, GLASSES),
        glasses_colour=pick(["red", "blue", "black", "green", "orange", "white"]),
        scarf=sometimes(0.2, colours),
        framing=framing,
        side="centre" if framing == "close-up" else pick(SIDES),
        yaw=_bell(random, 0.22, 0.52),
        pitch=_bell(random, 0.10, 0.24),
        roll=_bell(random, 0.07, 0.18),
        shift=(_bell(random, 0.05, 0.12), _bell(random, 0.02, 0.05)),
        expression=Expression(
            smile=float(random.uniform(-0.6, 1.0)),
            open=max(0.0, float(random.uniform(-0.7, 0.9))),
            brows=float(random.uniform(-1, 1)),
            lids=float(random.uniform(0.68, 1.0)),
            gaze=float(random.uniform(-1, 1)),
        ),
        light_from=(float(random.uniform(-1.1, 1.1)), float(random.uniform(0.05, 0.9))),
        warmth=float(random.uniform(-1, 1)),
        strength=float(random.uniform(0.8, 1.15)),
        seed=int(random.integers(2**31)),
    )


def draw_studio(random: np.random.Generator) -> Scene:
    """A scene in a studio: a close-up whose pose and expression the caption tells, in one light, before a backdrop
    that is always the same for one place. What captions leave open moves little, so that few samples teach what a
    picture should be."""
    pick, sometimes = partial(_pick, random), partial(_sometimes, random)
    colours = list(COLOURS)
    turn, mood = pick(["", "", "", "left", "right"]), pick(["", "", "smiling", "smiling", "laughing", "sad", "surprised"])
    clothes, colour = pick(CLOTHES), pick(colours)
    return Scene(
        place=pick(PLACES),
        place_colour=pick(colours),
        clothes=clothes,
        colour=colour,
        pattern="plain",
        second_colour=pick([name for name in colours if name != colour]),
        headwear=sometimes(0.3, HEADWEAR),
        headwear_colour=pick(colours),
        glasses=sometimes(0.2, GLASSES),
        glasses_colour=pick(["red", "blue", "black", "green", "orange", "white"]),
        scarf=sometimes(0.12, colours),
        framing="studio",
        side="centre",
        yaw=TURNS[turn] + _bell(random, 0.03, 0.06),
        pitch=_bell(random, 0.02, 0.04),
        roll=_bell(random, 0.015, 0.03),
        shift=(0.0, 0.0),
        expression=replace(MOODS[mood], gaze=0.8 * TURNS[turn]),
        light_from=(-0.55 + _bell(random, 0.06, 0.12), 0.45 + _bell(random, 0.04, 0.08)),
        warmth=_bell(random, 0.1, 0.2),
        strength=1.0 + _bell(random, 0.02, 0.04),
        seed=int(random.integers(2**31)),
        mood=mood,
        turn=turn,
    )


def _pick(random: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(random.integers(len(options)))]


def _sometimes(random: np.random.Generator, chance: float, options: Sequence[str]) -> str:
    picked = _pick(random, options)
    return picked if random.random() < chance else ""


def _bell(random: np.random.Generator, spread: float, most: float) -> float:
    return float(np.clip(random.normal(0, spread), -most, most))
