"""Captions: what a scene shows, in varied wording, and never a word about who is in it."""

from __future__ import annotations

import numpy as np

from .scenes import Scene

_PEOPLE = ("a person", "someone", "a person", "one person")
_FRAMINGS = {
    "studio": ("a close-up of {who}", "a close-up portrait of {who}", "a tight headshot of {who}", "a portrait of {who}"),
    "close-up": ("a close-up of {who}", "a close-up portrait of {who}", "a tight headshot of {who}", "a close-up photo of {who}"),
    "bust": ("a portrait of {who}", "a head and shoulders photo of {who}", "a bust portrait of {who}", "a picture of {who}"),
    "half-length": (
        "a half-length portrait of {who}",
        "a waist-up photo of {who}",
        "a half-length picture of {who}",
        "a medium shot of {who}",
    ),
}
_PLACES = {
    "beach": ("on a sandy beach by the sea", "at the beach", "on a tropical beach with a palm tree"),
    "forest": ("in a forest", "among the trees of a green forest", "in the woods"),
    "city": ("in a city with tall buildings", "in front of a city skyline", "downtown by day"),
    "mountains": ("in the snow, with mountains behind", "in front of snowy mountains", "on a snowy day in the mountains"),
    "desert": ("in a desert with a cactus", "among sand dunes", "in the desert"),
    "meadow": ("in a meadow full of flowers", "in a field of flowers", "on a flowering meadow"),
    "library": ("in a library", "in front of bookshelves", "in front of shelves of books"),
    "living room": ("in a living room", "at home in a living room with a window", "in a cosy living room"),
    "night": ("in a city at night", "at night under the moon, with lit windows", "in a night-time street"),
    "sunset": ("at sunset by a lake", "in front of an orange sunset", "by the water at sunset"),
    "brick wall": ("in front of a brick wall", "against a wall of bricks", "by a brick wall"),
    "plain wall": ("in front of a plain {colour} wall", "against a {colour} background", "before a {colour} backdrop"),
    "autumn park": ("in a park in autumn", "among orange autumn trees", "in an autumn park with falling leaves"),
    "space": ("in outer space, with stars and a planet", "floating among stars and planets", "in space"),
}
_PATTERNS = {
    "striped": ("{a} and {b} striped", "striped {a} and {b}"),
    "polka-dot": ("{a} polka-dot", "{a}, {b}-dotted"),
    "checked": ("{a} and {b} checked", "checked {a} and {b}"),
}
_SIDES = {
    "left": ("on the left of the picture", "to the left of the frame", "on the left side"),
    "right": ("on the right of the picture", "to the right of the frame", "on the right side"),
}
_MOODS = {
    "": "",
    "smiling": " smiling",
    "laughing": " laughing",
    "sad": " with a sad face",
    "surprised": " with a surprised face",
}
_TURNS = {"": "", "left": ", turned to the left", "right": ", turned to the right"}
_ARRANGEMENTS = ("{what} {worn}{place}{side}", "{what}{place}, {worn}{side}", "{what}{side}, {worn}{place}")


def caption(scene: Scene) -> str:
    """A scene in words; the wording follows from its seed."""
    random = scene.random(1)

    def pick(options: tuple[str, ...]) -> str:
        return options[int(random.integers(len(options)))]

    what = pick(_FRAMINGS[scene.framing]).format(who=pick(_PEOPLE)) + _MOODS[scene.mood]
    worn = _worn(scene, random)
    place = " " + place_words(scene.place, scene.place_colour, random)
    side = ", " + pick(_SIDES[scene.side]) if scene.side in _SIDES else _TURNS[scene.turn]
    return pick(_ARRANGEMENTS).format(what=what, worn=worn, place=place, side=side)


def place_words(place: str, colour: str, random: np.random.Generator) -> str:
    """Where something is, in words; `colour` is a plain wall's."""
    options = _PLACES[place]
    return options[int(random.integers(len(options)))].format(colour=colour)


def _worn(scene: Scene, random: np.random.Generator) -> str:
    clothes = _clothes(scene, random)
    things = []
    if scene.headwear:
        named = scene.headwear if scene.headwear in ("straw hat", "crown") else f"{scene.headwear_colour} {scene.headwear}"
        named = "golden crown" if scene.headwear == "crown" else named
        things.append(named if named.endswith("phones") else _a(named))
    if scene.glasses:
        things.append(f"{scene.glasses} {scene.glasses_colour} glasses")
    if scene.scarf:
        things.append(_a(f"{scene.scarf} scarf"))
    random.shuffle(things)
    if not things:
        return ("wearing " if random.random() < 0.5 else "in ") + clothes
    if random.random() < 0.5:
        return f"wearing {_listed([clothes, *things])}"
    return f"in {clothes} with {_listed(things)}"


def _clothes(scene: Scene, random: np.random.Generator) -> str:
    if scene.pattern != "plain":
        options = _PATTERNS[scene.pattern]
        look = options[int(random.integers(len(options)))].format(a=scene.colour, b=scene.second_colour)
        return _a(f"{look} {scene.clothes}")
    if scene.clothes == "suit":
        return _a(f"{scene.colour} suit and {_a(scene.second_colour)} tie")
    return _a(f"{scene.colour} {scene.clothes}")


def _a(noun: str) -> str:
    return ("an " if noun[0] in "aeio" else "a ") + noun


def _listed(things: list[str]) -> str:
    return things[0] if len(things) == 1 else ", ".join(things[:-1]) + " and " + things[-1]
