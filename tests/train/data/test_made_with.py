"""What a folder was made with is noted once, and held against what it is to be made with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from train.data.made_with import claim

PLAN = {"size": 64, "digest": "aa", "filters": {"min_face": 80, "tags": (1, 2)}}
WORDS = {"digest": "pictures"}


def test_the_same_goes_on_and_all_that_differs_is_named(tmp_path: Path) -> None:
    out = str(tmp_path)
    for _ in range(2):
        claim(out, "plan.json", "shards", PLAN, words=WORDS)
    assert json.loads((tmp_path / "plan.json").read_text())["filters"] == {"min_face": 80, "tags": [1, 2]}
    other = {"size": 64, "digest": "bb", "filters": {"min_face": 10, "tags": (1, 2)}}
    with pytest.raises(ValueError, match=r"shards made with other pictures; min_face \(80, now 10\)\. Choose"):
        claim(out, "plan.json", "shards", other, words=WORDS)
    with pytest.raises(ValueError, match=r"made with other size \(64, now None\)"):
        claim(out, "plan.json", "shards", {name: value for name, value in PLAN.items() if name != "size"}, words=WORDS)


def test_an_option_that_is_newer_than_the_note_has_the_value_it_then_had(tmp_path: Path) -> None:
    claim(str(tmp_path), "plan.json", "a world", PLAN)
    claim(str(tmp_path), "plan.json", "a world", {**PLAN, "studio": False}, older={"studio": False})
    with pytest.raises(ValueError, match=r"studio \(False, now True\)"):
        claim(str(tmp_path), "plan.json", "a world", {**PLAN, "studio": True}, older={"studio": False})


@pytest.mark.parametrize("content", ["", "{", "[1]", "3"])
def test_a_damaged_note_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(ValueError, match=r"plan\.json is damaged.*Delete"):
        claim(str(tmp_path), "plan.json", "shards", PLAN)
