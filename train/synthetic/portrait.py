"""The world: people, scenes, and portraits of one in the other."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from faceclip.face import CROP_SIZE
from faceclip.face.align import TEMPLATES, similarity_transform, warp

from .canvas import Canvas, View, to_bytes
from .captions import caption
from .clothes import NECK_FOOT, paint_body, paint_clothes
from .hair import Hair, HairLayers
from .head import Head, paint_head, paint_neck
from .headwear import paint_glasses, paint_headwear
from .objects import CLASSES, ObjectPicture, draw_object
from .people import LATENTS, Person, looks
from .places import EXTENT, PIXELS, START, paint_place
from .scenes import COLOURS, PLACES, Scene, draw_scene, draw_studio
from .surface import Hit

_PEOPLE, _SCENES, _OBJECTS, _NOISE, _REFERENCE = 1, 2, 3, 7, 8
_PICTURES_AT_MOST = 1 << 20
_CROP_PIXELS = 168
"""Pixels per side of the face's crop as it is rendered, before it is aligned to 448: face towers look at 112."""


@dataclass(frozen=True, eq=False)
class Portrait:
    """A picture of a person in a scene, and all that is known about it."""

    image: np.ndarray
    """uint8 [size, size, 3]."""
    face: np.ndarray
    """uint8 [448, 448, 3], aligned to ArcFace's template; rendered apart from the picture, so it is sharp."""
    landmarks: np.ndarray
    """float64 [5, 2] in pixels of the picture, ArcFace's order; exact."""
    caption: str
    person: Person
    scene: Scene


class World:
    """Everything that a seed gives rise to: the same seed gives the same people, scenes and captions, and on
    machines that compute alike the same pixels."""

    def __init__(self, seed: int = 0, size: int = 64, identity_share: float = 0.5, studio: bool = False):
        """
        Args:
            size: side of the pictures in pixels.
            studio: whether scenes are those of `draw_studio`. A portrait's `face` is then of another scene of the person
                than its picture: what is learned from it is who they are, not how they are shown.
            identity_share: in (0, 1], how much of a picture identity explains. Latent factors spread over [-spread,
                spread], spread = min(1, 2 identity_share), and people are shown larger by zoom = 0.6 + 0.8
                identity_share: below one half all look more alike and are smaller, above it they are larger.
                `explained_by_identity` measures the effect.

        Raises:
            ValueError: `identity_share` or `size` is out of range.
        """
        if not 0 < identity_share <= 1:
            raise ValueError(f"identity_share is {identity_share}; it lies above 0 and up to 1.")
        if size < 16:
            raise ValueError(f"Pictures of {size} px show no face; take 64 to 128.")
        self.seed, self.size, self.identity_share, self.studio = seed, size, identity_share, studio
        self.spread, self.zoom = min(1.0, 2 * identity_share), 0.6 + 0.8 * identity_share

    def person(self, number: int) -> Person:
        """Person `number` of this world."""
        random = np.random.default_rng((self.seed, _PEOPLE, number))
        return Person(number, self.spread * random.uniform(-1, 1, len(LATENTS)))

    def scene(self, seed: int) -> Scene:
        """Scene `seed` of this world."""
        draw = draw_studio if self.studio else draw_scene
        return draw(np.random.default_rng((self.seed, _SCENES, seed)))

    @staticmethod
    def scene_number(person: int, picture: int) -> int:
        """The number of a scene that no other person's picture has."""
        return person * _PICTURES_AT_MOST + picture

    def portrait(self, person: Person, scene: Scene | int) -> Portrait:
        """A person in a scene, or in the scene of that number."""
        return self.portrait_from(person, self.scene(scene) if isinstance(scene, int) else scene)

    def portrait_from(self, person: Person, scene: Scene) -> Portrait:
        """This person in that scene: what a generated picture of both would ideally show."""
        shown = _Shown(person, scene, self.zoom)
        left, top, side = scene.frame(self.zoom)
        view = View(left, top, side / self.size, self.size, self.size)
        return Portrait(
            image=shown.picture(view),
            face=self._reference(person, shown).face(),
            landmarks=view.pixels(shown.landmarks),
            caption=caption(scene),
            person=person,
            scene=scene,
        )

    def _reference(self, person: Person, shown: _Shown) -> _Shown:
        """Who is shown, as the crop of the face shows them: in a studio, in
        another scene, three times in four bareheaded."""
        if not self.studio:
            return shown
        scene = self.scene(shown.scene.seed)
        bare = scene.random(_REFERENCE).random() < 0.75
        return _Shown(person, replace(scene, headwear="", glasses="") if bare else scene, self.zoom)

    def object_picture(self, name: str, seed: int) -> ObjectPicture:
        """Picture `seed` of a class of objects. Raises ValueError for an unknown class."""
        if name not in CLASSES:
            raise ValueError(f"There are no pictures of {name!r}. The classes are: {', '.join(CLASSES)}.")
        random = np.random.default_rng((self.seed, _OBJECTS, CLASSES.index(name), seed))
        return draw_object(name, self.size, random)


@functools.lru_cache(256)
def _backdrop(place: str, colour: str) -> Image.Image:
    """A studio's backdrop, always the same."""
    return paint_place(place, colour, np.random.default_rng((11, PLACES.index(place))))


class _Shown:
    """A person in a scene, ready to be rendered through any view."""

    def __init__(self, person: Person, scene: Scene, zoom: float):
        self.scene = scene
        self.looks = looks(person)
        self.light = scene.light()
        self.frame = scene.frame(zoom)
        self.head = Head(self.looks, scene.pose(), scene.expression)
        self.hair = Hair(self.head, flat=bool(scene.headwear))
        self.landmarks = self.head.landmarks()

    @functools.cached_property
    def place(self) -> Image.Image:
        scene = self.scene
        if scene.studio:
            return _backdrop(scene.place, scene.place_colour)
        return paint_place(scene.place, scene.place_colour, scene.random(3))

    def picture(self, view: View, supersampling: int = 2) -> np.ndarray:
        """uint8 [h, w, 3], with the camera's noise."""
        fine = View(view.left, view.top, view.step / supersampling, view.width * supersampling, view.height * supersampling)
        rgb = self.render(fine).rgb
        shape = (3, view.height, supersampling, view.width, supersampling)
        small = rgb.reshape(shape).mean((2, 4))
        if self.scene.studio:
            return to_bytes(small)
        noise = self.scene.random(_NOISE).standard_normal(small.shape, dtype=np.float32)
        return to_bytes(small + 0.012 * noise)

    def face(self) -> np.ndarray:
        """uint8 [448, 448, 3]: rendered around the landmarks, then aligned as any photo's face is."""
        # Where the crop's corners will lie in the scene, and a view that shows them all.
        matrix = similarity_transform(self.landmarks, TEMPLATES["arcface"])
        corners = np.array([(x, y) for x in (-1, CROP_SIZE) for y in (-1, CROP_SIZE)]) - matrix[:, 2]
        corners = corners @ np.linalg.inv(matrix[:, :2]).T
        step = CROP_SIZE / _CROP_PIXELS / float(np.sqrt(np.linalg.det(matrix[:, :2])))
        (left, top), (right, bottom) = corners.min(0) - 3 * step, corners.max(0) + 3 * step
        view = View(float(left), float(top), step, int((right - left) / step) + 1, int((bottom - top) / step) + 1)
        image = self.render(view).picture()
        half = CROP_SIZE // 2
        # From the view's pixels to a crop of half the size, which is then enlarged: that costs a third. Pixel j of the crop is
        # at j / 2 - 1/4 of the half.
        corner = np.array([view.left, view.top]) + 0.5 * step
        matrix = np.column_stack([step * matrix[:, :2], matrix[:, :2] @ corner + matrix[:, 2]]) / 2
        matrix[:, 2] -= 0.25
        small = Image.fromarray((warp(image, matrix, half) * 255 + 0.5).astype(np.uint8))
        return np.asarray(small.resize((CROP_SIZE, CROP_SIZE), Image.Resampling.BILINEAR))

    def render(self, view: View) -> Canvas:
        """All layers, from the back to the front."""
        scene, looks, light = self.scene, self.looks, self.light
        canvas = Canvas(view, self._backdrop(view))
        hair = HairLayers(canvas, self.hair, light)
        hair.paint_back()
        paint_body(canvas, looks, light)
        paint_neck(canvas, looks, self.head.pose, light, NECK_FOOT)
        paint_clothes(canvas, scene, light)

        def finish(picture: np.ndarray, hit: Hit) -> None:
            picture *= self.hair.shadow(hit)
            if scene.glasses:
                paint_glasses(picture, hit, looks, scene.glasses, COLOURS[scene.glasses_colour])

        paint_head(canvas, self.head, light, finish)
        hair.paint_front()
        paint_headwear(canvas, self.hair, scene, light)
        return canvas

    def _backdrop(self, view: View) -> np.ndarray:
        left, top, side = self.frame
        scale = PIXELS / (EXTENT * side)
        box = ((view.left - left - START * side) * scale, (view.top - top - START * side) * scale)
        reach = (view.width * view.step * scale, view.height * view.step * scale)
        # Beyond what was drawn, the nearest part is shown.
        x0, y0 = (float(np.clip(at, 0, PIXELS - size)) for at, size in zip(box, reach, strict=True))
        box = (x0, y0, min(x0 + reach[0], PIXELS), min(y0 + reach[1], PIXELS))
        image = self.place.resize((view.width, view.height), Image.Resampling.BICUBIC, box=box)
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1), dtype=np.float32) * np.float32(1 / 255)
