"""Two shards of small pictures, in several shapes."""

from __future__ import annotations

from pathlib import Path

import pytest

from train.data.shards import ShardSource, write_shard

from .pictures import samples


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shard(folder / "a.tar", samples(6))
    write_shard(folder / "b.tar", samples(5, start=6))
    return folder


@pytest.fixture(scope="module")
def source(shards: Path) -> ShardSource:
    return ShardSource(shards)
