"""The studio: close-ups whose picture follows from person and caption,
and crops that show the person in another scene."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from train.synthetic.command import World, WorldOptions
from train.synthetic.people import LATENTS, TRAITS, Person, traits
from train.synthetic.scenes import MOODS, TURNS

CAPTION = "a close-up of someone in a black t-shirt with an orange top hat in a city at night"
SUM = 858155


@pytest.fixture(scope="module")
def studio() -> World:
    return World(seed=0, size=64, studio=True)


def test_captions_tell_pose_and_expression(studio: World) -> None:
    words = {"smiling": "smiling", "laughing": "laughing", "sad": "sad face", "surprised": "surprised face"}
    seen = set()
    for number in range(60):
        portrait = studio.portrait(studio.person(0), number)
        scene = portrait.scene
        for mood, word in words.items():
            assert (word in portrait.caption) == (scene.mood == mood), portrait.caption
        for turn in ("left", "right"):
            assert (f"turned to the {turn}" in portrait.caption) == (scene.turn == turn), portrait.caption
        assert abs(scene.yaw - TURNS[scene.turn]) <= 0.06 and scene.expression.smile == MOODS[scene.mood].smile
        seen |= {scene.mood, scene.turn}
    assert seen == {*MOODS, *TURNS}


def test_one_place_has_one_backdrop(studio: World) -> None:
    scenes = [studio.scene(number) for number in range(80)]
    beaches = [scene for scene in scenes if scene.place == "beach" and not scene.headwear][:2]
    corners = [studio.portrait_from(studio.person(0), scene).image[:6, :6] for scene in beaches]
    np.testing.assert_array_equal(*corners)


def test_the_crop_shows_the_person_in_another_scene(studio: World) -> None:
    scene = replace(studio.scene(5), headwear="", glasses="")
    smiling, sad = (replace(scene, mood=mood, expression=MOODS[mood]) for mood in ("smiling", "sad"))
    one, two = (studio.portrait_from(studio.person(3), each) for each in (smiling, sad))
    assert np.abs(one.image.astype(int) - two.image).max() > 60
    np.testing.assert_array_equal(one.face, two.face)
    other = studio.portrait_from(studio.person(4), smiling)
    assert np.abs(one.face.astype(int) - other.face).mean() > 10


@pytest.mark.program
def test_identity_explains_more_of_a_studio_than_of_the_wide_world() -> None:
    shares = []
    for studio in (False, True):
        world = World(seed=0, size=32, studio=studio)
        pictures = np.array(
            [[world.portrait(world.person(p), world.scene_number(p, k)).image for k in range(4)] for p in range(12)], dtype=float
        )
        shares.append(pictures.mean(1).var(0).mean() / pictures.var((0, 1)).mean())
    assert shares[1] > shares[0]


def test_the_wide_world_is_as_it_was() -> None:
    """The proof was published on it: neither a scene nor a caption of it knows of moods and turns."""
    world = World(seed=0, size=64)
    scenes = [world.scene(number) for number in range(40)]
    assert {(scene.mood, scene.turn, scene.studio) for scene in scenes} == {("", "", False)}
    portrait = world.portrait(world.person(0), 0)
    assert portrait.caption == CAPTION and int(portrait.image.sum()) == pytest.approx(SUM, rel=1e-3)


def test_held_out_people_have_their_own_number_of_pictures() -> None:
    options = WorldOptions(pictures=2, held_out_pictures=5)
    assert [options.pictures_of(part) for part in ("train", "held_out", "guided", "guided_held_out")] == [2, 5, 1, 1]
    assert WorldOptions(pictures=3).pictures_of("held_out") == 3


def test_traits_are_the_factors_and_what_a_face_shows_of_them() -> None:
    plain = np.zeros(len(LATENTS))
    assert len(traits(Person(0, plain))) == len(TRAITS) == 29
    marked = plain.copy()
    marked[LATENTS.index("marks")] = 0.9
    named = dict(zip(TRAITS, traits(Person(0, marked)), strict=True))
    assert named["mole"] == 1 and named["freckles"] == 0 and (named["mole across"], named["mole down"]) != (0, 0)
    marked[LATENTS.index("marks")] = -0.9
    named = dict(zip(TRAITS, traits(Person(0, marked)), strict=True))
    assert named["mole"] == 0 and named["freckles"] > 0.8 and named["mole across"] == named["mole down"] == 0
