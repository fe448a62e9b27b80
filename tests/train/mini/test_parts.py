"""The mini model's own stages: which colour each token knows, which places weigh more, which clothes are right."""

from __future__ import annotations

import torch

from train.data.captions import caption_ids, token_ids
from train.mini.colours import colours_followed
from train.mini.joint import emphasis
from train.mini.words import last_colours, spoken
from train.synthetic.scenes import COLOURS


def test_each_noun_knows_the_colour_that_was_named_for_it() -> None:
    caption = "someone in a yellow suit and a turquoise tie with round black glasses"
    ids = torch.stack([caption_ids(caption)])
    found = last_colours(ids)[0]
    for noun, colour in {"suit": "yellow", "tie": "turquoise", "glasses": "black"}.items():
        place = ids[0].tolist().index(int(caption_ids(noun)[1]))
        assert found[place].tolist() == torch.tensor([*(2 * value - 1 for value in COLOURS[colour]), 1.0]).tolist(), noun
    before = ids[0].tolist().index(int(caption_ids("yellow")[1]))
    assert not found[:before].any() and found[before:, 3].all()


def test_a_caption_without_colours_knows_none() -> None:
    assert not last_colours(token_ids(["a person in a forest"], [True])).any()


def test_what_is_spoken_ends_before_the_end_of_the_text() -> None:
    ids = torch.stack([caption_ids("a red hat"), caption_ids("")])
    assert spoken(ids).sum(1).tolist() == [3, 0]
    assert not spoken(ids)[:, 0].any()


def test_eyes_weigh_more_than_corners_and_the_average_is_one() -> None:
    landmarks = torch.tensor([[[0.35, 0.5], [0.65, 0.5], [0.5, 0.6], [0.4, 0.72], [0.6, 0.72]]])
    weights = emphasis(landmarks, 16)
    assert weights.shape == (1, 1, 16, 16)
    assert abs(float(weights.mean()) - 1) < 1e-6
    eye, mouth, corner = weights[0, 0, 8, 5], weights[0, 0, 11, 6], weights[0, 0, 0, 0]
    assert eye > 1.5 * mouth and mouth > 1.2 * corner and corner > 0.5
    assert abs(float(weights[0, 0, 8, 10] - eye)) < 1e-5  # x is the second place


def test_clothes_are_found_in_the_colour_that_was_told_and_in_no_other() -> None:
    def shirt(colour: str) -> torch.Tensor:
        picture = torch.full((3, 128, 128), 200, dtype=torch.uint8)
        picture[:, 112:] = (torch.tensor(COLOURS[colour]) * 255).byte()[:, None, None]
        return picture

    captions = [
        "someone in a green sweater in space",
        "a person at night, wearing a red t-shirt",
        "someone in a blue suit and a red tie",
    ]
    assert colours_followed(torch.stack([shirt("green"), shirt("red"), shirt("pink")]), captions) == 1.0  # suits do not count
    assert colours_followed(torch.stack([shirt("green"), shirt("blue"), shirt("pink")]), captions) == 0.5
    assert colours_followed(torch.stack([shirt("green")]), ["someone in a red shirt and a green scarf"]) == 0.0  # none is told
