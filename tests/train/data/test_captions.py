"""Captions as token ids: made without the prefix by reading threads, completed in the step."""

from __future__ import annotations

import pytest
import torch

from faceclip.prompt import tokenize
from train.data.captions import caption_ids, token_ids, with_prefix

LENGTHS = [f"{'sea ' * count}!" for count in (0, 1, 5, 66, 67, 68, 69, 70, 71, 73, 74, 75, 76, 90)]


@pytest.mark.parametrize("caption", ["", "a man (left) at (sea:1.5)", "! ! !", "! " * 80, "an id photo of a person", *LENGTHS])
def test_the_prefix_comes_where_the_tokenizer_puts_it(caption: str) -> None:
    plain = caption.replace("(", r"\(").replace(")", r"\)")
    for face in (False, True):
        assert torch.equal(token_ids([caption], [face]), tokenize(plain, face).input_ids)


def test_rows_with_and_without_a_face_keep_their_places() -> None:
    ids = torch.stack([caption_ids(caption) for caption in LENGTHS])
    faces = torch.arange(len(ids)) % 2 == 0
    both = with_prefix(ids, faces)
    assert torch.equal(both[~faces], ids[~faces])
    assert torch.equal(both[faces], torch.cat([tokenize(caption, True).input_ids for caption in LENGTHS])[faces])
