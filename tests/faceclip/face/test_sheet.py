"""Words and pictures as nodes show them."""

from __future__ import annotations

import numpy as np
import pytest

from faceclip.face.sheet import WIDTH, draw_sheet, draw_words


def ink(picture: np.ndarray) -> np.ndarray:
    """Rows and columns of a picture of words that have letters."""
    return picture.max(2) > 150


def test_words_are_light_on_dark_and_stay_on_the_paper() -> None:
    picture = draw_words("1 face taken from 1 photo.\n" + "a long sentence about what was found " * 4)
    assert picture.dtype == np.uint8 and picture.shape[1:] == (WIDTH, 3)
    lit = ink(picture)
    assert lit.any() and not lit[:, -15:].any() and not lit[:, :15].any() and not lit[-15:].any()


def test_a_word_wider_than_the_paper_is_broken_and_many_lines_end() -> None:
    one_line = draw_words("x").shape[0]
    wide = draw_words("w" * 300)
    assert wide.shape[0] > one_line and not ink(wide)[:, -15:].any()
    assert draw_words("line\n" * 100).shape == draw_words("line\n" * 16).shape
    assert draw_words("").shape == draw_words("x").shape


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_pictures_of_any_size_stand_whole_above_the_words(count: int) -> None:
    shapes = [(300, 200), (64, 640), (448, 448)]
    pictures = [np.full((*shapes[k % 3], 3), 100 + 10 * k, dtype=np.uint8) for k in range(count)]
    sheet = draw_sheet(pictures, "said")
    assert sheet.shape[1] == WIDTH
    for k in range(count):
        seen = (np.abs(sheet.astype(int) - (100 + 10 * k)) < 3).all(2)
        rows, columns = (np.flatnonzero(seen.sum(axis) > 20) for axis in (1, 0))  # more than the borders of letters
        height, width = shapes[k % 3]
        assert abs(len(columns) / len(rows) - width / height) < 0.2 * width / height
    assert draw_sheet(pictures, "").shape[0] < sheet.shape[0]
