"""Rows become batches in memory that is used again."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
import torch

from train.data import stacking
from train.data.stacking import collate


def test_memory_is_used_again_once_nobody_holds_any_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacking, "_left", deque(maxlen=4))
    rows = [{"key": str(i), "face": np.full((448, 448, 3), i, np.uint8).transpose(2, 0, 1)} for i in range(8)]

    def face() -> torch.Tensor:
        faces = collate(rows)["face"]
        assert all(faces[i].eq(i).all() for i in range(8))
        return faces

    first, second = face(), face()
    place = first.data_ptr()
    assert second.data_ptr() != place
    part = first[1:2]
    del first
    third = face()
    assert third.data_ptr() not in (place, second.data_ptr()) and part.eq(1).all()
    del part
    fourth = face()
    assert fourth.data_ptr() == place
    array = fourth.numpy()
    del fourth
    assert face().data_ptr() != place and (array[7] == 7).all()
