"""A short run of `benchmarks/fuzz.py`: mutated files of every kind end
in the declared errors, in bounded memory and time."""

from __future__ import annotations

import importlib
import random
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
COUNT = 30


@pytest.fixture
def fuzz(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("fuzz")


KINDS = [
    *("jpeg", "jpeg, progressive", "png", "png, 16-bit grey", "webp", "tiff", "gif", "bmp", "avif", "jpeg 2000"),
    *("safetensors", "pt (zip)", "pt (old)", "identity", "shard", "shard with its index", "index", "checkpoint"),
    *(".index.json", "feature cache, cache.json", "feature cache, array"),
    *("latent cache, cache.json", "latent cache, places", "latent cache, array"),
    *("yaml", "csv", "tsv", "votes"),
]


def test_every_kind_is_tried(fuzz: ModuleType) -> None:
    # Damaged parquet is read by pyarrow, which may end the process: that has one of its own in the benchmark.
    assert set(KINDS) == set(fuzz.kinds()) - {"parquet"}


@pytest.mark.parametrize("kind", KINDS)
def test_mutations_end_in_the_declared_errors(kind: str, fuzz: ModuleType) -> None:
    found = fuzz.try_kind(kind, COUNT, seed=1)
    assert found.raw == []
    assert found.read + found.refused == COUNT
    assert found.memory <= fuzz.MEMORY


def test_the_same_seed_makes_the_same_files(fuzz: ModuleType) -> None:
    content = bytes(range(256)) * 8
    first, again = ([fuzz.mutate(content, chance) for _ in range(50)] for chance in (random.Random(5), random.Random(5)))
    assert first == again and len(set(first)) > 40


def test_a_raw_error_would_be_seen(fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def read(path: Path) -> None:
        if path.read_bytes() != b"0123456789abcdef0123":
            raise IndexError("pop from an empty list")

    from fuzz_files import Kind

    made = Kind(lambda folder: Path(folder, "x").write_bytes(b"0123456789abcdef0123") and folder / "x", read, (ValueError,))
    monkeypatch.setattr(fuzz, "kinds", lambda: {"x": made})
    found = fuzz.try_kind("x", 5, 0, tmp_path)
    assert found.raw and "IndexError: pop from an empty list" in found.raw[0] and list(tmp_path.iterdir())
