"""The report of preparing, as a picture."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from train.prepare.histograms import WIDTH, draw
from train.prepare.report import Report


def test_the_picture_shows_every_reason_and_limit() -> None:
    report = Report()
    report.keep({"face": 400.0, "turn": 0.0})
    bare = opened(draw(report, {}))
    limited = opened(draw(report, {"turn": (-60, 60), "face": (1e9,)}))  # a limit beyond the axis is not drawn
    changed = np.flatnonzero((bare != limited).any(axis=(0, 2)))
    zero = 90 + (WIDTH - 90 - 30) / 2
    for degrees in (-60, 60):
        place = zero + degrees / 180 * (WIDTH - 90 - 30)
        assert np.abs(changed - place).min() <= 1
    report.drop("k", "no face", "none")
    assert opened(draw(report, {})).shape[0] == bare.shape[0]  # in place of "nothing dropped"
    report.drop("k", "small face", "40 px", {"face": 40.0})
    assert opened(draw(report, {})).shape[0] > bare.shape[0]


def opened(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)), dtype=int)
