"""`python -m train.synthetic`: shards that training reads, made once, resumed, and with other people held out."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.data.decode import DecodeSample
from train.data.shards import ShardSource
from train.synthetic.command import main
from train.synthetic.objects import CLASSES
from train.synthetic.portrait import World

OPTIONS = [
    "--people",
    "4",
    "--pictures",
    "3",
    "--held-out-people",
    "2",
    "--guided",
    "5",
    "--guided-held-out",
    "3",
    "--shard-size",
    "6",
    "--seed",
    "5",
]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    assert main([str(folder), *OPTIONS]) == 0
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_training_reads_what_was_written(out: Path) -> None:
    source = ShardSource(out / "train")
    assert len(source) == 12 and len(source.shards) == 2
    assert source.missing("face") == 0
    sample = source[4]
    world = World(seed=5)
    portrait = world.portrait(world.person(1), world.scene_number(1, 1))
    assert (sample.identity, sample.caption) == (1, portrait.caption)
    np.testing.assert_allclose(sample.meta["landmarks"], portrait.landmarks, atol=1e-3)
    assert sample.meta["scene"]["place"] == portrait.scene.place
    stored = np.asarray(Image.open(io.BytesIO(sample.image))).astype(int)
    assert np.abs(stored - portrait.image).mean() < 4
    row = DecodeSample(32)(sample, np.random.default_rng(0))
    assert row["image"].shape == (3, 32, 32) and row["face"].shape == (3, 448, 448)


def test_held_out_people_are_others(out: Path) -> None:
    people = [{ShardSource(out / part)[k].identity for k in range(n)} for part, n in (("train", 12), ("held_out", 6))]
    assert people == [{0, 1, 2, 3}, {4, 5}]


def test_guided_pictures_have_a_class_and_no_face(out: Path) -> None:
    train, held_out = (ShardSource(out / part) for part in ("guided", "guided_held_out"))
    assert train.missing("face") == len(train) == 5
    assert [train[k].meta["class"] for k in range(5)] == list(CLASSES[:5])
    assert train[0].identity == -1
    assert len(held_out) == 3
    assert not {train[k].image for k in range(5)} & {held_out[k].image for k in range(3)}


def test_a_finished_world_is_left_alone_and_a_missing_shard_made_again(out: Path) -> None:
    before = contents(out)
    lost = out / "train" / "shard-000001.tar.index"
    lost.unlink()
    (out / "train" / "shard-000001.tar").write_bytes(b"half")
    kept = (out / "train" / "shard-000000.tar").stat().st_mtime_ns
    assert main([str(out), *OPTIONS]) == 0
    assert contents(out) == before
    assert (out / "train" / "shard-000000.tar").stat().st_mtime_ns == kept


def test_a_world_from_before_an_option_was_there_goes_on(out: Path) -> None:
    plan = json.loads((out / "world.json").read_text())
    (out / "world.json").write_text(json.dumps({name: value for name, value in plan.items() if name != "studio"}))
    assert main([str(out), *OPTIONS]) == 0
    (out / "world.json").write_text(json.dumps(plan, indent=1))


def test_other_options_are_refused(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(out), *OPTIONS, "--size", "128"]) == 1
    assert "holds a world made with other size (64, now 128)" in capsys.readouterr().err
    assert main([str(out / "new"), "--identity-share", "2"]) == 1
    assert "identity_share is 2.0; it lies above 0 and up to 1" in capsys.readouterr().err
