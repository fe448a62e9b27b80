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


def test_no_picture_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="no picture to train on"):
        BucketBatches(np.array([], dtype=int), batch_size=4, seed=0)
