"""Samples that cannot be used are told once, counted over ranks and starts, and few."""

from __future__ import annotations

import pytest
import torch

from train.data.stacking import DataError
from train.run.ranks import Ranks
from train.run.tolerance import Tolerance

ONE = Ranks(0, 1, torch.device("cpu"))


def test_each_is_told_once_and_one_more_than_are_tolerated_ends_the_run(caplog: pytest.LogCaptureFixture) -> None:
    told: list[tuple[str, str]] = []
    tolerance = Tolerance(2, ONE, known=["a"])
    tolerance.heed([("a", "A rots."), ("b", "B rots."), ("b", "B rots.")], lambda *each: told.append(each))
    tolerance.heed([], lambda *each: told.append(each))
    assert told == [("b", "B rots.")] and tolerance.known == {"a", "b"}
    assert "B rots. The next row takes its place (2 of 2 that are tolerated)." in caplog.text
    with pytest.raises(DataError, match="3 samples cannot be used, and the run was to tolerate 2. The last: C rots.*--tolerate"):
        tolerance.heed([("c", "C rots.")], lambda *each: told.append(each))
    assert len(told) == 1


def heed(rank: int, world: int) -> tuple[list[str], set[str], str]:
    tolerance, told = Tolerance(3, Ranks(rank, world, torch.device("cpu"))), []
    for found in ([("a", "A.")], [("a", "A."), ("b", "B.")] if rank else []):
        tolerance.heed(found, lambda key, _: told.append(key))
    try:
        tolerance.heed([(f"c{rank}", "C.")], lambda key, _: told.append(key))
    except DataError as error:
        return told, tolerance.known, str(error)
    return told, tolerance.known, ""


def test_all_ranks_count_alike(run_ranks) -> None:
    first, second = run_ranks(heed, 2)
    assert first == second == (["a", "b", "c0"], {"a", "b", "c0", "c1"}, first[2]) and "4 samples cannot be used" in first[2]
