"""What teachers and judge learn from: the words of a picture, its moved, mirrored and blurred views."""

from __future__ import annotations

import torch

from faceclip.metrics import imagenet_templates
from train.data.captions import caption_ids
from train.proof.teachers.clip import Sentences
from train.proof.teachers.pictures import Pictures
from train.proof.teachers.recognition import MOVE, blurred, mirrored, moved


def pictures(captions: list[str], classes: list[str]) -> Pictures:
    count = len(captions)
    return Pictures(
        torch.zeros(count, 3, 8, 8),
        torch.zeros(count, 0),
        torch.zeros(count, 5, 2),
        torch.zeros(count),
        captions,
        classes,
        torch.zeros(count, 29),
    )


def test_captions_are_kept_shortened_or_replaced_by_the_objects_name_in_their_shares() -> None:
    caption = "a portrait of a person wearing a red hoodie at the beach"
    words = Sentences(pictures([caption, "a photo of a blue key in the desert"], ["", "key"]), seed=0)
    people = [words.of(0) for _ in range(2000)]
    whole = sum(text == caption for text in people) / len(people)
    assert 0.46 < whole < 0.54
    assert all(text in caption and 2 <= len(text.split()) <= 6 for text in people if text != caption)
    objects = [words.of(1) for _ in range(2000)]
    templates = {template("key") for template in imagenet_templates()}
    shares = [
        sum(text in kind for text in objects) / len(objects)
        for kind in ({"a photo of a blue key in the desert"}, {"key"}, templates)
    ]
    assert 0.2 < shares[0] < 0.3 and 0.46 < shares[1] < 0.54 and sum(shares) == 1


def test_the_same_words_have_the_same_number_and_ids() -> None:
    words = Sentences(pictures(["one person"] * 3 + ["someone"], [""] * 4), seed=0)
    ids, numbers = words(torch.arange(4))
    assert ids.shape == (4, 77)
    assert torch.equal(ids[0], caption_ids("one person")) and torch.equal(ids[3], caption_ids("someone"))
    assert numbers[0] == numbers[1] == numbers[2] != numbers[3]


def test_crops_are_moved_by_a_little_and_each_by_its_own() -> None:
    torch.manual_seed(0)
    crop = torch.zeros(1, 3, 112, 112)
    crop[..., 50:62, 50:62] = 1
    y, x = torch.meshgrid(torch.arange(112.0), torch.arange(112.0), indexing="ij")
    found = moved(crop.expand(64, -1, -1, -1))[:, 0]
    centres = torch.stack([(found * x).sum((1, 2)), (found * y).sum((1, 2))], dim=-1) / found.sum((1, 2))[:, None]
    spread = centres.std(0) / 56
    assert ((spread > 0.5 * MOVE) & (spread < 2 * MOVE)).all()


def test_a_mirrored_face_has_its_landmarks_in_arcfaces_order() -> None:
    landmarks = torch.tensor([[[0.3, 0.4], [0.6, 0.4], [0.5, 0.5], [0.35, 0.7], [0.55, 0.7]]])
    expected = torch.tensor([[[0.4, 0.4], [0.7, 0.4], [0.5, 0.5], [0.45, 0.7], [0.65, 0.7]]])
    torch.testing.assert_close(mirrored(landmarks), expected)


def test_blurring_takes_the_finer_half_of_the_detail_and_leaves_the_rest() -> None:
    stripes = torch.tensor([0.0, 200.0]).repeat(32).expand(1, 3, 64, 64)
    assert blurred(stripes).std() < 1
    flat = torch.full((1, 3, 64, 64), 90.0)
    torch.testing.assert_close(blurred(flat), flat)
