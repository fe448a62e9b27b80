"""Face similarity over many people: right pairs against shuffled ones, several faces, none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from faceclip import FaceCLIPConfig, FaceCLIPEncoder
from faceclip.face import Face, load_judge
from faceclip.metrics import FaceTowerJudge, MetricError, face_vectors, likeness, own_scores, summarise


class ColourJudge:
    """Reads a person from a picture's colours: one face per column of 8
    pixels that is not black, its vector the RGB."""

    name = "colours"
    same_person_above = 0.9

    def __init__(self) -> None:
        self.detector = self

    def detect(self, image: np.ndarray) -> list[Face]:
        return next(self.passes(image))

    def passes(self, image: np.ndarray):
        columns = [x for x in range(0, image.shape[1], 8) if image[:, x].any()]
        points = np.zeros((5, 2), np.float32)
        yield [Face((float(x), 0.0, x + 8.0, 8.0), points, "arcface", 1.0) for x in columns]

    def embed(self, image: np.ndarray, face: Face) -> np.ndarray:
        colour = image[0, int(face.box[0])].astype(np.float32)
        return colour / np.linalg.norm(colour)


def picture(*colours: tuple[int, int, int]) -> np.ndarray:
    """One column of each colour, wide enough for any detector."""
    columns = [np.full((32, 8, 3), colour, np.uint8) for colour in colours]
    return np.concatenate([*columns, *[np.zeros((32, 8, 3), np.uint8)] * 3], axis=1)


RED, GREEN, GREY, NONE = (200, 0, 0), (0, 200, 0), (100, 100, 100), (0, 0, 0)
PEOPLE = np.array([[1, 0, 0], [0, 1, 0]], np.float32)


def test_shuffled_pairs_fall_to_the_value_between_people() -> None:
    judge = ColourJudge()
    random = np.random.default_rng(0)
    people = random.normal(size=(12, 64)).astype(np.float32)
    people /= np.linalg.norm(people, axis=1, keepdims=True)
    who = np.repeat(np.arange(12), 10)
    faces = [(people[i] + 0.05 * random.normal(size=64)).astype(np.float32) for i in who]
    scores = likeness([(face / np.linalg.norm(face))[None] for face in faces], people)

    right = summarise(scores, who.tolist(), judge, conditioned=False)
    shuffled = summarise(scores, ((who + 1) % 12).tolist(), judge, conditioned=False)
    between = (people @ people.T)[~np.eye(12, dtype=bool)].mean()
    assert right.similarity.mean > 0.9
    assert right.identified == 1
    assert shuffled.identified == 0
    assert shuffled.similarity.mean == pytest.approx(between, abs=0.1)
    assert right.others.mean == pytest.approx(between, abs=0.02)
    assert right.similarity.clusters == 12


def test_the_most_similar_of_several_faces_counts() -> None:
    scores = likeness(face_vectors(ColourJudge(), [picture(GREEN, RED), picture(GREY)]), PEOPLE)
    assert scores[0] == pytest.approx([1, 1])
    assert scores[1] == pytest.approx([3**-0.5, 3**-0.5])


def test_images_without_a_face_are_counted_apart_and_never_as_0() -> None:
    judge, told = ColourJudge(), []
    faces = face_vectors(judge, [picture(RED), picture(NONE), picture(GREEN), picture(NONE)], told.append)
    assert told == [1, 2, 3, 4]
    found = summarise(likeness(faces, PEOPLE), [0, 0, 1, 1], judge, conditioned=True)
    assert found.similarity.mean == pytest.approx(1)
    assert (found.images, found.with_face, found.detection_rate) == (4, 2, 0.5)
    assert found.identified == 1
    assert found.conditioned
    assert found.judge == "colours"
    assert found.same_person_above == 0.9
    assert np.isnan(own_scores(likeness(faces, PEOPLE), [0, 0, 1, 1])).tolist() == [False, True, False, True]


def test_no_face_anywhere_is_an_error() -> None:
    judge = ColourJudge()
    with pytest.raises(MetricError, match="colours found no face in any of the 2 images"):
        summarise(likeness(face_vectors(judge, [picture(NONE)] * 2), PEOPLE), [0, 1], judge, conditioned=False)


def test_one_person_alone_has_nobody_to_be_taken_for() -> None:
    judge = ColourJudge()
    found = summarise(likeness(face_vectors(judge, [picture(RED)]), PEOPLE[:1]), [0], judge, conditioned=False)
    assert math.isnan(found.identified)
    assert math.isnan(found.others.mean)
    assert found.similarity.mean == pytest.approx(1)


def test_every_image_needs_its_person() -> None:
    with pytest.raises(MetricError, match="2 images and 1 people"):
        own_scores(np.zeros((2, 2)), [0])
    with pytest.raises(MetricError, match="0 images"):
        own_scores(np.zeros((0, 2)), [])


def test_the_face_tower_judges_with_its_class_token(astronaut: np.ndarray) -> None:
    torch.manual_seed(0)
    encoder = FaceCLIPEncoder(FaceCLIPConfig.preset("tiny")).eval()
    judge = FaceTowerJudge(encoder, load_judge("dlib").detector)
    portrait = astronaut[:320, 80:400]
    mirrored = np.asarray(Image.fromarray(portrait).transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    first, second = face_vectors(judge, [portrait, mirrored])
    assert first.shape == (1, 16)
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-5)
    assert likeness([first], first)[0, 0] == pytest.approx(1)
    assert not np.allclose(first, second)
    assert judge.name == "faceclip"
