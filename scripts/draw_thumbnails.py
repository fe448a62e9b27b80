"""Draw the workflows' thumbnails for ComfyUI's template browser: what goes
in and what comes out, with people of the drawn world.

    python scripts/draw_thumbnails.py [FOLDER]       (default folder: workflows)

They are schemes, drawn by code, and no results: the world knows what every person looks like in every scene.
"""

from __future__ import annotations

import argparse
import colorsys
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps
from workflows.names import file_name  # beside this file

from train.synthetic.features import Expression
from train.synthetic.people import LATENTS, Person
from train.synthetic.portrait import World
from train.synthetic.scenes import Scene

SIZE, RADIUS, MIDDLE = 400, 14, 146
TOP, SIDE = 52, 84  # of what goes in: newer browsers lay a badge, "Node graph", over the upper 46 pixels
BACK, LINE, TEXT, GOOD = (29, 33, 42), (112, 124, 148), (214, 220, 232), (64, 220, 120)
WORLD = World(3, 256, identity_share=1.0)
ANN, BEN, CAROL = (WORLD.person(number) for number in (12, 0, 18))
PASSPORT = replace(
    WORLD.scene(5),
    place="plain wall",
    place_colour="grey",
    framing="close-up",
    headwear="",
    glasses="",
    scarf="",
    yaw=0.05,
    pitch=0.0,
    roll=0.0,
    expression=Expression(smile=0.7, open=0.1, brows=0.5, lids=0.9, gaze=0.0),
)


def scene(place: str, clothes: str = "t-shirt", colour: str = "white", framing: str = "bust", **changes) -> Scene:
    """A scene that shows a person from the front, with nothing on the head unless told."""
    told = {"place": place, "clothes": clothes, "colour": colour, "framing": framing, "side": "centre", **changes}
    return replace(PASSPORT, pattern="plain", **told)


@functools.cache
def _shown(person: int, at: Scene) -> Image.Image:
    return Image.fromarray(WORLD.portrait_from(WORLD.person(person), at).image)


def picture(person: Person, at: Scene = PASSPORT) -> Image.Image:
    """A person in a scene, 256 x 256."""
    if person.number < 0:  # made of two others
        return Image.fromarray(WORLD.portrait_from(person, at).image)
    return _shown(person.number, at)


class Board:
    """A thumbnail in the making: above what goes in, below what comes out."""

    def __init__(self):
        self.image = Image.new("RGB", (SIZE, SIZE), BACK)
        self.pen = ImageDraw.Draw(self.image)

    def put(self, shown: Image.Image, x: int, y: int, width: int, height: int = 0, frame: tuple[int, int, int] = LINE) -> None:
        """A picture with round corners in a frame."""
        size = (width, height or width)
        part = ImageOps.fit(shown, size, Image.Resampling.LANCZOS)
        mask = Image.new("L", (2 * size[0], 2 * size[1]))
        ImageDraw.Draw(mask).rounded_rectangle((0, 0, 2 * size[0] - 1, 2 * size[1] - 1), 2 * RADIUS, fill=255)
        self.image.paste(part, (x, y), mask.resize(size, Image.Resampling.LANCZOS))
        self.pen.rounded_rectangle((x, y, x + size[0] - 1, y + size[1] - 1), RADIUS, outline=frame, width=3)

    def above(self, shown: Sequence[Image.Image | str], signs: str = "") -> None:
        """What goes in, in a row: pictures, or a file's name; `signs` stand between them."""
        gap = 22
        left = (SIZE - len(shown) * SIDE - (len(shown) - 1) * gap) // 2
        for place, item in enumerate(shown):
            x = left + place * (SIDE + gap)
            if isinstance(item, str):
                self.file(item, x, TOP, SIDE)
            else:
                self.put(item, x, TOP, SIDE)
            if place and signs:
                self.text(signs[place - 1], x - gap // 2, TOP + SIDE // 2, 26)
        self.pen.polygon([(SIZE // 2 - 13, MIDDLE - 4), (SIZE // 2 + 13, MIDDLE - 4), (SIZE // 2, MIDDLE + 11)], fill=LINE)

    def below(self, shown: Image.Image, width: int = 230, frame: tuple[int, int, int] = LINE) -> None:
        """The one picture that comes out."""
        self.put(shown, (SIZE - width) // 2, MIDDLE + 20, width, 224, frame)

    def file(self, name: str, x: int, y: int, side: int) -> None:
        self.pen.rounded_rectangle((x, y, x + side - 1, y + side - 1), RADIUS, fill=(46, 52, 66), outline=LINE, width=3)
        self.pen.polygon([(x + side - 34, y), (x + side, y), (x + side, y + 34)], fill=BACK)
        self.pen.polygon([(x + side - 34, y), (x + side - 34, y + 34), (x + side - 1, y + 34)], fill=LINE)
        self.text(name, x + side // 2, y + side // 2 + 12, min(19, 3 * side // (2 * len(name))))

    def text(self, words: str, x: int, y: int, size: int, colour: tuple[int, int, int] = TEXT) -> None:
        self.pen.text((x, y), words, fill=colour, font=ImageFont.load_default(size), anchor="mm", align="center")


def mini_demo(board: Board) -> None:
    board.above([picture(ANN)])
    small = picture(ANN, scene("beach", "hoodie", "red", "close-up")).resize((64, 64), Image.Resampling.BOX)
    board.below(small.resize((256, 256), Image.Resampling.NEAREST))


def basic(board: Board) -> None:
    board.above([picture(ANN)])
    board.below(picture(ANN, scene("library", "shirt", "blue")))


def rank(board: Board) -> None:
    board.above([picture(ANN)])
    at = [scene(place, "suit", "black", "close-up", second_colour="red") for place in ("sunset", "night", "brick wall")]
    for place, shown in enumerate((picture(ANN, at[0]), picture(between(ANN, CAROL, 0.5), at[1]), picture(CAROL, at[2]))):
        x = 14 + place * 126
        board.put(shown, x, MIDDLE + 60, 118, 150, GOOD if place == 0 else LINE)
        board.text(str(place + 1), x + 59, MIDDLE + 40, 24, GOOD if place == 0 else TEXT)


def references(board: Board) -> None:
    turned = [replace(PASSPORT, yaw=yaw, place=place) for yaw, place in ((-0.4, "forest"), (0.05, "plain wall"), (0.4, "city"))]
    board.above([picture(ANN, at) for at in turned])
    board.below(picture(ANN, scene("mountains", "coat", "green", second_colour="white")))


def between(first: Person, second: Person, ratio: float) -> Person:
    return Person(-1, first.latents + ratio * (second.latents - first.latents))


def blend(board: Board) -> None:
    board.above([picture(ANN), picture(BEN)], "+")
    board.below(picture(between(ANN, BEN, 0.5), scene("meadow", "sweater", "orange")))


def flux_basic(board: Board) -> None:
    board.above([picture(BEN)])
    board.below(picture(BEN, scene("library", "shirt", "blue")))
    flux(board)


def flux_saved_identity(board: Board) -> None:
    board.above(["my_person"])
    board.below(picture(CAROL, scene("city", "coat", "green", second_colour="white")))
    flux(board)


def flux_two_people(board: Board) -> None:
    people(CAROL, BEN)(board)
    flux(board)


def flux(board: Board) -> None:
    """A badge: this one is for FLUX."""
    board.pen.rounded_rectangle((330, 8, 392, 36), 9, fill=GOOD)
    board.text("FLUX", 361, 22, 18, BACK)


def save_identity(board: Board) -> None:
    board.above([picture(BEN)])
    board.file("my_person", SIZE // 2 - 75, MIDDLE + 50, 150)


def saved_identity(board: Board) -> None:
    board.above(["my_person"])
    board.below(picture(BEN, scene("city", "suit", "grey", second_colour="blue")))


def timestep_range(board: Board) -> None:
    at = scene("autumn park", "turtleneck", "purple")
    layout = picture(CAROL, at).filter(ImageFilter.GaussianBlur(12))
    board.above([picture(CAROL)])
    board.put(layout, 16, MIDDLE + 40, 140, 180)
    board.put(picture(CAROL, at), 244, MIDDLE + 40, 140, 180)
    board.text("prompt", 86, MIDDLE + 238, 18)
    board.text("+ face", 314, MIDDLE + 238, 18)
    board.text(">", SIZE // 2, MIDDLE + 130, 36, LINE)


def img2img(board: Board) -> None:
    at = scene("desert", "shirt", "turquoise", side="right", headwear="straw hat", headwear_colour="yellow")
    board.above([picture(BEN, at), picture(ANN)], "+")
    board.below(picture(ANN, at))


def face_swap(board: Board) -> None:
    at = scene("living room", "sweater", "green", "bust", second_colour="white")
    masked = picture(BEN, at).copy()
    ImageDraw.Draw(masked).ellipse((82, 42, 174, 168), outline=GOOD, width=7)
    board.above([masked, picture(CAROL)], "+")
    hair = np.array(["hair" in name or name in ("curl", "beard") for name in LATENTS])
    swapped = Person(-1, np.where(hair, BEN.latents, CAROL.latents))  # what is beside the mask stays
    board.below(picture(swapped, at))


def folder(board: Board) -> None:
    thing = Image.fromarray(WORLD.object_picture("house", 1).image)
    board.above([picture(ANN), thing, picture(CAROL)])
    left, right = (SIZE - SIDE) // 2 + 18, (SIZE + SIDE) // 2 - 18  # of the second of three
    board.pen.line((left, TOP + 18, right, TOP + SIDE - 18), fill=(240, 90, 90), width=7)
    board.pen.line((left, TOP + SIDE - 18, right, TOP + 18), fill=(240, 90, 90), width=7)
    for place, person in enumerate((ANN, CAROL)):
        board.put(picture(person, scene("sunset", "t-shirt", "yellow")), 16 + place * 192, MIDDLE + 36, 176, 200)


def lora(board: Board) -> None:
    board.above([picture(ANN), "LoRA"], "+")
    plain = picture(ANN, scene("forest", "hoodie", "purple")).filter(ImageFilter.ModeFilter(7))
    styled = ImageOps.autocontrast(plain).quantize(14, dither=Image.Dither.NONE).convert("RGB")
    board.below(styled)


def transplant(board: Board) -> None:
    board.above(["unet", "SDXL", "yours"], "-+")
    warm = Image.blend(picture(BEN, scene("beach", "tank top", "blue")), Image.new("RGB", (256, 256), (255, 150, 60)), 0.25)
    board.below(warm)


def skeleton(x: int, y: int, side: int) -> list[tuple[tuple[int, int], tuple[int, int], tuple[int, int, int]]]:
    """An OpenPose figure in a square: limbs as lines with their colours."""
    joints = {
        "neck": (0.5, 0.24),
        "head": (0.5, 0.12),
        "left elbow": (0.28, 0.2),
        "left hand": (0.16, 0.06),
        "right elbow": (0.72, 0.36),
        "right hand": (0.86, 0.24),
        "hip": (0.5, 0.56),
        "left knee": (0.36, 0.74),
        "left foot": (0.28, 0.94),
        "right knee": (0.66, 0.72),
        "right foot": (0.62, 0.94),
    }
    limbs = ("head neck", "neck left elbow", "left elbow left hand", "neck right elbow", "right elbow right hand", "neck hip")
    limbs += ("hip left knee", "left knee left foot", "hip right knee", "right knee right foot")
    places = {name: (round(x + a * side), round(y + b * side)) for name, (a, b) in joints.items()}
    found = []
    for number, limb in enumerate(limbs):
        ends = [name for name in joints if name in limb]
        colour = colorsys.hsv_to_rgb(number / len(limbs), 0.85, 1.0)
        found.append((places[ends[0]], places[ends[1]], tuple(round(255 * value) for value in colour)))
    return found


def pose(board: Board) -> None:
    board.above([picture(BEN), Image.new("RGB", (SIDE, SIDE))], "+")
    for start, end, colour in skeleton((SIZE + 22) // 2, TOP, SIDE):
        board.pen.line((*start, *end), fill=colour, width=5)
    board.below(picture(BEN, scene("sunset", "t-shirt", "white", "half-length")))


def group_photo(board: Board) -> None:
    at = (scene("autumn park", "sweater", "green"), scene("autumn park", "shirt", "white"))
    layout = beside(*(picture(WORLD.person(number), look) for number, look in zip((3, 7), at, strict=True)))
    boxed = layout.copy()
    for left in (78, 334):
        ImageDraw.Draw(boxed).ellipse((left, 40, left + 100, 166), outline=GOOD, width=8)
    board.above([picture(ANN), picture(BEN)])
    board.put(boxed, 16, MIDDLE + 50, 172, 90)
    board.text(">", SIZE // 2, MIDDLE + 95, 30, LINE)
    board.put(beside(*(picture(person, look) for person, look in zip((ANN, BEN), at, strict=True))), 212, MIDDLE + 50, 172, 90)


def beside(*pictures: Image.Image) -> Image.Image:
    return Image.fromarray(np.concatenate([np.asarray(picture) for picture in pictures], axis=1))


def people(*who: Person) -> Callable[[Board], None]:
    def draw(board: Board) -> None:
        board.above([picture(person) for person in who])
        width = 360 // len(who)
        strips = [
            ImageOps.fit(picture(person, scene("city", "coat", colour)), (width, 230))
            for person, colour in zip(who, COATS, strict=False)
        ]
        board.below(beside(*strips), 360)

    return draw


COATS = ("red", "grey", "blue")


def few_steps(board: Board) -> None:
    board.above([picture(ANN), "8 steps"], "+")
    board.below(picture(ANN, scene("beach", "hoodie", "yellow")))


def hires(board: Board) -> None:
    made = picture(BEN, scene("city", "sweater", "green"))
    board.above([picture(BEN), made.resize((32, 32), Image.Resampling.BOX).resize((256, 256), Image.Resampling.NEAREST)])
    board.below(made)


def prompts(board: Board) -> None:
    board.above([picture(ANN)])
    for place, (at, colour) in enumerate((("forest", "blue"), ("beach", "red"), ("city", "green"))):
        board.put(picture(ANN, scene(at, "t-shirt", colour)), 16 + place * 126, MIDDLE + 40, 116, 200)


THUMBNAILS: Mapping[str, Callable[[Board], None]] = {
    "Mini demo": mini_demo,
    "Portrait": basic,
    "Best of four": rank,
    "Several photos": references,
    "Blend two people": blend,
    "Save a person": save_identity,
    "Saved person": saved_identity,
    "Face comes later": timestep_range,
    "Image to image": img2img,
    "Face swap": face_swap,
    "Pose": pose,
    "Folder of photos": folder,
    "Style LoRA": lora,
    "Own checkpoint": transplant,
    "Mini two people": people(ANN, BEN),
    "Mini three people": people(ANN, BEN, CAROL),
    "Group photo": group_photo,
    "Few steps": few_steps,
    "Hires fix": hires,
    "Several prompts": prompts,
    "FLUX portrait": flux_basic,
    "FLUX two people": flux_two_people,
    "FLUX saved person": flux_saved_identity,
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draw the workflows' thumbnails.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).resolve().parent.parent / "workflows")
    out = parser.parse_args(argv).folder
    for title, draw in THUMBNAILS.items():
        board = Board()
        draw(board)
        path = out / f"{file_name(title)}.jpg"
        board.image.save(path, quality=85, optimize=True)
        print(path)


if __name__ == "__main__":
    main()
