"""Batches of changing size keep their place in the order; a thread makes them ahead, and ends."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from itertools import count

import pytest

from train.data.ahead import Ahead
from train.data.course import Course

PAPER = Course.of([(0, 4096), (200, 512), (500, 64)])


def test_the_place_of_a_step_is_the_rows_before_it() -> None:
    assert [PAPER.batch_size(step) for step in (0, 199, 200, 499, 500, 9999)] == [4096, 4096, 512, 512, 64, 64]
    assert [PAPER.rows_before(step) for step in (0, 1, 200, 201, 500, 502)] == [0, 4096, 819200, 819712, 972800, 972928]
    for step in (0, 3, 199, 200, 201, 499, 500, 777):
        start = PAPER.rows_before(step)
        assert PAPER.step_of(start) == PAPER.step_of(start + PAPER.batch_size(step) - 1) == step


def test_a_size_that_does_not_change_is_no_change() -> None:
    assert Course.of([(0, 8), (5, 8), (9, 4)]) == Course.of([[0, 8], [9, 4]]) and Course.of(8) == Course(((0, 8),))


@pytest.mark.parametrize("step", [1, 200, 350, 600])
def test_what_was_done_stays_as_it_was(step: int) -> None:
    later = Course.of(32)
    both = PAPER.continued(step, later)
    assert [both.rows_before(at) for at in range(0, step + 1, 50)] == [PAPER.rows_before(at) for at in range(0, step + 1, 50)]
    assert both.rows_before(step + 10) == PAPER.rows_before(step) + 320
    assert PAPER.continued(step, PAPER) == PAPER or step > 500  # then its last change is behind, and the same


def watched(made: list[int]) -> Iterator[int]:
    for number in count():
        made.append(number)
        yield number


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "batches"]


def until(condition: bool | object, patience: float = 20) -> None:
    deadline = time.monotonic() + patience
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_items_are_made_ahead_and_no_more_than_asked_for() -> None:
    made: list[int] = []
    ahead = Ahead(watched(made), ready=2)
    until(lambda: len(made) == 3)  # two wait, and the third waits to be put beside them
    assert [next(ahead) for _ in range(3)] == [0, 1, 2]
    until(lambda: len(made) == 6)
    ahead.close()
    assert not threads() and list(ahead) == []
    until(lambda: made == list(range(6)), patience=1)


def test_what_an_item_raises_comes_in_its_place_and_ends_the_rest() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("the second")

    ahead = Ahead(broken(), ready=4)
    assert next(ahead) == 1
    with pytest.raises(KeyError, match="the second"):
        next(ahead)
    assert list(ahead) == [] and list(Ahead(iter([1, 2]))) == [1, 2]


def test_the_thread_ends_with_whoever_asked() -> None:
    ahead = Ahead(count())
    assert next(ahead) == 0 and threads()
    del ahead
    gc.collect()
    until(lambda: not threads())
