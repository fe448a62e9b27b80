"""Portraits: what is the same, what differs, and that the landmarks are where the features are drawn."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from faceclip.face.align import TEMPLATES, similarity_transform
from train.synthetic.features import Expression
from train.synthetic.objects import CLASSES
from train.synthetic.people import LATENTS, Person, looks
from train.synthetic.portrait import World
from train.synthetic.scenes import CLOTHES, COLOURS, GLASSES, HEADWEAR, PATTERNS, PLACES, Scene
from train.synthetic.sheet import explained_by_identity

# Words for what a face is born with or grows; whole words, as captions are written in lower case.
IDENTITY_WORDS = set(
    re.findall(
        r"\w+",
        """
        hair haired blond blonde brunette bald beard bearded moustache mustache eye eyes eyed brow brows nose mouth
        lip lips skin face faced faces jaw chin cheek cheeks freckles mole curly man woman boy girl male female he she
        his her old young
        """,
    )
)


@pytest.fixture(scope="module")
def world() -> World:
    return World(seed=3, size=128)


def plain(scene: Scene) -> Scene:
    """The scene with nothing on the head, a calm look, and a closed mouth."""
    calm = Expression(smile=0.2, open=0.0, brows=0.0, lids=0.9, gaze=0.0)
    return replace(scene, headwear="", glasses="", expression=calm, framing="close-up", side="centre")


def dressed(scene: Scene) -> Scene:
    return replace(scene, clothes="t-shirt", scarf="")


def average() -> Person:
    return Person(-1, np.zeros(len(LATENTS)))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    first, again, other = (World(seed).portrait(World(seed).person(5), 8) for seed in (0, 0, 1))
    for name in ("image", "face", "landmarks"):
        assert getattr(first, name).tobytes() == getattr(again, name).tobytes()
        assert getattr(first, name).tobytes() != getattr(other, name).tobytes()
    assert (first.caption, first.scene) == (again.caption, again.scene)
    assert first.image.shape == (64, 64, 3) and first.face.shape == (448, 448, 3)


def test_captions_tell_the_scene_and_never_the_person(world: World) -> None:
    captions = set()
    for seed in range(400):
        scene = world.scene(seed)
        caption = world_caption(scene)
        words = set(caption.replace(",", " ").replace("-", " ").split())
        assert not words & IDENTITY_WORDS, caption
        assert scene.clothes in caption and scene.colour in caption
        assert scene.headwear in caption and scene.glasses in caption and scene.scarf in caption
        captions.add(caption)
    assert len(captions) > 390


def world_caption(scene: Scene) -> str:
    from train.synthetic.captions import caption

    return caption(scene)


def test_every_value_of_every_attribute_is_drawn_and_changes_the_picture(world: World) -> None:
    scene = replace(plain(world.scene(1)), framing="bust", clothes="shirt", pattern="plain", colour="red", second_colour="white")
    person = average()
    variants = [replace(scene, place=place) for place in PLACES]
    variants += [replace(scene, clothes=clothes) for clothes in CLOTHES if clothes != "shirt"]
    variants += [replace(scene, pattern=pattern) for pattern in PATTERNS[1:]]
    variants += [replace(scene, headwear=kind, headwear_colour="blue") for kind in HEADWEAR]
    variants += [replace(scene, glasses=shape, glasses_colour="black") for shape in GLASSES]
    variants += [replace(scene, scarf="green")]
    small = World(seed=3, size=32)
    pictures = {small.portrait_from(person, variant).image.tobytes() for variant in variants}
    assert len(pictures) == len(variants)


@pytest.mark.parametrize("number", range(6))
def test_landmarks_are_where_the_features_are(world: World, number: int) -> None:
    person = world.person(number)
    scene = plain(world.scene(number))
    size = 256
    portrait = World(seed=3, size=size).portrait_from(person, scene)
    image = portrait.image.astype(float) / 255
    right_eye, left_eye, _, right_mouth, left_mouth = portrait.landmarks
    measures = looks(person)
    pixels_per_unit = size / scene.frame()[2]
    for eye in (right_eye, left_eye):
        # The pupil, the darkest of the eye, lies in the middle of the iris.
        reach = 0.75 * measures.eye_size * pixels_per_unit
        y, x = np.mgrid[:size, :size]
        near = np.hypot(x - eye[0], y - eye[1]) < reach * np.cos(scene.yaw)
        dark = near & (image.sum(2) < np.quantile(image.sum(2)[near], 0.12))
        middle = np.array([x[dark].mean(), y[dark].mean()])
        assert np.hypot(*(middle - eye)) < 0.45 * measures.eye_size * pixels_per_unit
        # The iris around it has the colour that the person's latent factor says.
        ring = near & (np.hypot(x - middle[0], y - middle[1]) < 0.45 * measures.eye_size * pixels_per_unit) & ~dark
        found = np.median(image[ring], axis=0)
        expected = measures.iris / np.linalg.norm(measures.iris)
        assert found @ expected / np.linalg.norm(found) > 0.9
    between = (right_mouth + left_mouth) / 2
    x, y = np.round(between).astype(int)
    lips = image[y - 4 : y + 5, x - 3 : x + 4].reshape(-1, 3)
    redness = (lips[:, 0] / (lips.sum(1) + 1e-6)).max()
    assert redness > measures.skin[0] / measures.skin.sum() + 0.03


def test_the_crop_is_aligned_to_arcfaces_template(world: World) -> None:
    for number in range(8):
        portrait = world.portrait(world.person(number), number)
        matrix = similarity_transform(portrait.landmarks, TEMPLATES["arcface"])
        moved = portrait.landmarks @ matrix[:, :2].T + matrix[:, 2]
        assert np.abs(moved.mean(0) - TEMPLATES["arcface"].mean(0)).max() < 1
        assert np.abs(moved - TEMPLATES["arcface"]).max() < 75  # faces differ from the template, but not by much


def test_the_crop_shows_what_the_picture_shows_but_sharper() -> None:
    big = World(seed=3, size=512)
    portrait = big.portrait_from(big.person(2), plain(big.scene(2)))
    from faceclip.face import Face, align_face

    low, high = portrait.landmarks.min(0), portrait.landmarks.max(0)
    face = Face(np.array([*low, *high], dtype=np.float32), portrait.landmarks.astype(np.float32), "arcface", 1.0)
    from_picture = align_face(portrait.image, face).image
    middle = slice(112, 336)
    difference = np.abs(from_picture - portrait.face.astype(np.float32) / 255)[middle, middle].mean()
    assert difference < 0.02


def test_identity_changes_the_face_and_neither_place_nor_clothes(world: World) -> None:
    scene = replace(dressed(plain(world.scene(4))), framing="half-length")
    one, two = (world.portrait_from(world.person(number), scene).image.astype(int) for number in (1, 2))
    changed = np.abs(one - two).max(2) > 0
    left, top, side = scene.frame()
    x = left + (np.arange(128) + 0.5) / 128 * side
    y = top + (np.arange(128) + 0.5) / 128 * side
    far = np.abs(x)[None] + 0 * y[:, None] > 1.6
    chest = (y > 2.6)[:, None] & (np.abs(x) < 0.6)[None]
    face = (np.hypot(x[None], y[:, None]) < 0.5) & True
    assert not changed[far].any()
    assert not changed[chest].any()
    assert changed[face].mean() > 0.9


def test_every_latent_factor_changes_the_face() -> None:
    world = World(seed=3, size=64)
    scene = plain(world.scene(4))
    base = Person(0, np.full(len(LATENTS), 0.3))
    shown = world.portrait_from(base, scene).face.astype(int)
    for number, name in enumerate(LATENTS):
        moved = base.latents.copy()
        moved[number] = -0.9
        face = world.portrait_from(Person(0, moved), scene).face.astype(int)
        assert np.abs(face - shown).mean() > 0.1, name


def test_the_scene_changes_the_place_and_not_the_face(world: World) -> None:
    scene = plain(world.scene(6))
    other = replace(scene, place="beach" if scene.place != "beach" else "city")
    person = world.person(0)
    one, two = (world.portrait_from(person, shown).face.astype(int) for shown in (scene, other))
    middle = slice(180, 300)
    assert (one[middle, middle] == two[middle, middle]).all()


def test_identity_share_brings_people_closer_and_makes_faces_smaller() -> None:
    whole, half = World(0, identity_share=0.5), World(0, identity_share=0.25)
    np.testing.assert_allclose(half.person(4).latents, 0.5 * whole.person(4).latents)
    eyes = [np.hypot(*(p.landmarks[1] - p.landmarks[0])) for p in (w.portrait_from(average(), w.scene(0)) for w in (whole, half))]
    assert eyes[1] == pytest.approx(0.8 * eyes[0], rel=1e-6)
    with pytest.raises(ValueError, match="identity_share is 0; it lies above 0 and up to 1"):
        World(0, identity_share=0)


def nearest_is_same_person(pixels: list[np.ndarray], people: list[int]) -> float:
    """Share of pictures whose nearest other picture is of the same person."""
    x = np.stack(pixels).reshape(len(pixels), -1).astype(np.float64)
    distance = ((x[:, None] - x[None]) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    return float(np.mean(np.array(people)[distance.argmin(1)] == people))


def test_crops_tell_who_it_is_and_backgrounds_do_not() -> None:
    world = World(seed=3, size=32)
    crops, edges, people = [], [], []
    for number in range(8):
        for k in range(6):
            portrait = world.portrait(world.person(number), world.scene_number(number, k))
            crops.append(portrait.face[80:400, 64:384].reshape(16, 20, 16, 20, 3).mean((1, 3)))
            edges.append(np.concatenate([portrait.image[:, :3].ravel(), portrait.image[:10, -3:].ravel()]))
            people.append(number)
    chance = 5 / 47
    assert nearest_is_same_person(crops, people) > 4 * chance
    assert nearest_is_same_person(edges, people) < 2.5 * chance


def test_identity_explains_more_the_higher_its_share() -> None:
    found = [explained_by_identity(World(3, 24, share), people=4, scenes=4) for share in (0.2, 0.5, 1.0)]
    assert all(sum(shares.values()) == pytest.approx(1) for shares in found)
    scenes = [shares["scene"] for shares in found]
    assert scenes[0] > scenes[1] > scenes[2]


def test_objects_are_of_forty_classes_and_captions_name_them() -> None:
    world = World(seed=1, size=64)
    assert len(CLASSES) == len(set(CLASSES)) == 40
    seen = set()
    for name in CLASSES:
        picture = world.object_picture(name, 0)
        assert picture.image.shape == (64, 64, 3)
        assert name in picture.caption and picture.colour in ("", *COLOURS)
        assert picture.image.tobytes() == world.object_picture(name, 0).image.tobytes()
        seen.add(picture.image.tobytes())
    assert len(seen) == 40
    with pytest.raises(ValueError, match="There are no pictures of 'dragon'"):
        world.object_picture("dragon", 0)
