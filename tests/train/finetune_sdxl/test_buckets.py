"""Which pictures a step trains on: one shape, every row equally often, the same whoever asks."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from train.finetune_sdxl.buckets import BucketBatches

BUCKETS = np.array([0] * 13 + [1] * 7 + [4] * 2)


def test_a_batch_is_of_one_bucket() -> None:
    batches = BucketBatches(BUCKETS, batch_size=4, seed=0)
    assert all(len(set(BUCKETS[batches.batch(step)])) == 1 for step in range(60))


def test_every_row_is_seen_equally_often_even_in_a_bucket_smaller_than_the_batch() -> None:
    batches = BucketBatches(BUCKETS, batch_size=4, seed=0)
    steps = len(BUCKETS) * 8 // 4  # eight epochs
    seen = Counter(int(row) for step in range(steps) for row in batches.batch(step))
    assert set(seen) == set(range(len(BUCKETS))) and set(seen.values()) == {8}


def test_a_step_is_a_function_of_its_number_and_the_seed() -> None:
    forward = BucketBatches(BUCKETS, batch_size=4, seed=3)
    in_order = [forward.batch(step) for step in range(50)]
    resumed = BucketBatches(BUCKETS, batch_size=4, seed=3)
    assert all(np.array_equal(resumed.batch(step), in_order[step]) for step in range(31, 50))
    other = BucketBatches(BUCKETS, batch_size=4, seed=4)
    assert any(not np.array_equal(other.batch(step), in_order[step]) for step in range(5))


def test_a_batch_larger_than_the_data_repeats_rows() -> None:
    batches = BucketBatches(np.zeros(3, dtype=int), batch_size=8, seed=0)
    assert [Counter(batches.batch(step).tolist()).total() for step in range(3)] == [8, 8, 8]
    seen = Counter(row for step in range(3) for row in batches.batch(step).tolist())
    assert set(seen.values()) == {8}


@pytest.mark.parametrize("sizes", [(8, 2), (2, 8), (4, 4, 3)])
@pytest.mark.parametrize("steps", [1, 5, 20])
def test_a_changed_batch_deals_what_the_one_before_has_left(sizes: tuple[int, ...], steps: int) -> None:
    buckets = np.array([0] * 130 + [1] * 70 + [4] * 20)
    stretches = [BucketBatches(buckets, sizes[0], seed=3)]
    for size in sizes[1:]:
        stretches.append(BucketBatches(buckets, size, seed=3, before=(stretches[-1], steps)))
    batches = [batch.batch(step) for batch in stretches[:-1] for step in range(steps)]
    rest = 3 * len(buckets) - sum(map(len, batches))
    batches += [stretches[-1].batch(step) for step in range(rest // sizes[-1])]
    assert all(len(set(buckets[batch])) == 1 for batch in batches)
    seen = Counter(Counter(int(row) for batch in batches for row in batch).values())
    assert seen[3] > 200 and set(seen) <= {2, 3, 4}  # three epochs, but for batches that reach beyond
    first = Counter(int(row) for batch in batches[: steps + 2] for row in batch)
    assert steps == 20 or set(first.values()) == {1}  # within the first, none is seen again


def test_other_buckets_of_the_same_rows_deal_what_those_before_have_not() -> None:
    random = np.random.default_rng(0)
    coarse, fine = random.integers(0, 3, 400), random.integers(0, 5, 400)
    before = BucketBatches(coarse, 16, seed=1)
    first = [before.batch(step) for step in range(35)]  # one epoch is 25 batches
    after = BucketBatches(fine, 4, seed=1, before=(before, 35))
    rest = [after.batch(step) for step in range((800 - 35 * 16) // 4 - 3)]
    assert all(len(set(fine[batch])) == 1 for batch in rest)
    seen = Counter(int(row) for batch in (*first, *rest) for row in batch)
    assert set(seen.values()) <= {1, 2} and sum(times == 2 for times in seen.values()) > 380
    ahead = {int(row) for row, times in Counter(int(r) for batch in first for r in batch).items() if times == 2}
    assert not ahead & {int(row) for batch in rest for row in batch}
    again = BucketBatches(fine, 4, seed=1, before=(BucketBatches(coarse, 16, seed=1), 35))
    assert all(np.array_equal(again.batch(step), rest[step]) for step in (0, 17, 40))


def test_no_picture_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="no picture to train on"):
        BucketBatches(np.array([], dtype=int), batch_size=4, seed=0)
