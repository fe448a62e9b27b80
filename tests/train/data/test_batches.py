"""The stream of batches: mixed, shuffled, sliced by rank, resumed from one integer."""

from __future__ import annotations

import importlib
import inspect
import io
import json
import tarfile
import threading
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from train.data import shards
from train.data.batches import DataError, ReadOptions, TrainingData, _part_size, collate
from train.data.course import Course
from train.data.decode import DecodeSample, clip_crop, decode, decode_face
from train.data.shards import Sample, ShardSource, write_shard

MAIN, GUIDED = 23, 7


def jpeg(width: int, height: int, shade: int = 128) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (shade, 255 - shade, 40)).save(buffer, "JPEG")
    return buffer.getvalue()


FACE = jpeg(448, 448)


def write(path: Path, name: str, count: int, picture: bytes | None, **changes: Any) -> ShardSource:
    rows = [
        Sample(f"{name}{n}", jpeg(40 + n, 30, 9 * n), picture, f"{name} caption {n}", {"identity": n % 4}) for n in range(count)
    ]
    write_shard(path / f"{name}.tar", [Sample(**{**vars(row), **changes}) for row in rows])
    return ShardSource(path / f"{name}.tar")


@pytest.fixture(scope="module")
def main(tmp_path_factory: pytest.TempPathFactory) -> ShardSource:
    return write(tmp_path_factory.mktemp("main"), "main", MAIN, FACE)


@pytest.fixture(scope="module")
def guided(tmp_path_factory: pytest.TempPathFactory) -> ShardSource:
    # Guided shards may hold faces and identities: a guided row must show neither.
    return write(tmp_path_factory.mktemp("guided"), "guided", GUIDED, FACE)


def draw(sample: Sample, random: np.random.Generator) -> dict[str, Any]:
    """Keeps the rows light, and shows the randomness a row was given."""
    return {"caption": sample.caption, "draw": random.integers(1 << 40)}


def stream(main, guided=None, *, part=0.0, batch=6, seed=1, rank=0, world=1, transform=draw, **reading) -> TrainingData:
    return TrainingData(main, guided, part, batch, seed, rank, world, transform, ReadOptions(**reading))


def take(data: TrainingData, count: int) -> list[dict[str, Any]]:
    return list(islice(data, count))


def rows(batches: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """(row, randomness) in order."""
    return [pair for batch in batches for pair in zip(batch["index"].tolist(), batch["draw"].tolist(), strict=True)]


def test_a_batch_holds_what_the_trainer_reads(main: ShardSource, guided: ShardSource) -> None:
    data = stream(main, guided, part=0.5, batch=8, transform=DecodeSample(image_size=24))
    batch = next(iter(data))
    assert batch["image"].shape == (8, 3, 24, 24) and batch["image"].dtype == torch.uint8
    assert batch["face"].shape == (8, 3, 448, 448) and batch["face"].dtype == torch.uint8
    assert batch["has_face"].dtype == torch.bool and batch["has_face"].sum() == 4
    assert batch["identity"].dtype == torch.int64 and batch["index"].dtype == torch.int64
    for row, has_face in enumerate(batch["has_face"].tolist()):
        index = int(batch["index"][row])
        source, local = (main, index) if has_face else (guided, index - MAIN)
        assert batch["key"][row] == source[local].key and batch["caption"][row] == source[local].caption
        assert int(batch["identity"][row]) == (source[local].identity if has_face else -1)
        assert bool(batch["face"][row].any()) == has_face
        expected = decode_face(source[local].face) if has_face else np.zeros((3, 448, 448), np.float32)
        assert torch.equal(batch["face"][row].float() / 255, torch.from_numpy(expected))


def test_every_epoch_shows_every_row_once_in_another_order(main: ShardSource) -> None:
    data = stream(main, batch=1)
    assert data.epoch_steps == MAIN
    indices = [row for row, _ in rows(take(data, 3 * MAIN))]
    epochs = [indices[start : start + MAIN] for start in range(0, 3 * MAIN, MAIN)]
    assert all(sorted(epoch) == list(range(MAIN)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [row for row, _ in rows(take(stream(main, batch=1, seed=2), MAIN))] != epochs[0]


def test_randomness_is_new_in_every_epoch(main: ShardSource) -> None:
    draws = [value for _, value in rows(take(stream(main, batch=1), 3 * MAIN))]
    assert len(set(draws)) == 3 * MAIN


@pytest.mark.parametrize("part", [0.1, 0.5])
def test_the_guided_part_is_lambda_in_every_stretch_and_on_every_rank(
    main: ShardSource, guided: ShardSource, part: float
) -> None:
    for rank in (0, 1):
        batches = take(stream(main, guided, part=part, batch=20, rank=rank, world=2), 12)
        face = torch.cat([batch["has_face"] for batch in batches]).float()
        assert abs(float(1 - face.mean()) - part) < 0.06  # the pattern of `mix` alone gave 0 and 1 at one half
    whole = take(stream(main, guided, part=part, batch=20), 12)
    assert all(abs(int((~batch["has_face"]).sum()) - 20 * part) <= 1 for batch in whole)
    assert {index for index, _ in rows(whole) if index >= MAIN} == set(range(MAIN, MAIN + GUIDED))


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_one_global_batch_whatever_their_number(main: ShardSource, guided: ShardSource, world: int) -> None:
    whole = take(stream(main, guided, part=0.25), 9)
    parts = [take(stream(main, guided, part=0.25, rank=rank, world=world), 9) for rank in range(world)]
    for step in range(9):
        dealt = [rows([parts[rank][step]]) for rank in range(world)]
        assert {len(part) for part in dealt} == {6 // world}
        assert list(chain(*dealt)) == rows([whole[step]])


def test_resume_anywhere_on_any_number_of_ranks(main: ShardSource, guided: ShardSource) -> None:
    whole = take(stream(main, guided, part=0.25), 12)
    for stop in (0, 1, 5, 11):  # an epoch of the main source ends within
        first = stream(main, guided, part=0.25)
        assert rows(take(first, stop)) == rows(whole[:stop])
        state = first.state_dict()
        assert state == {"step": stop}
        second = stream(main, guided, part=0.25)
        second.load_state_dict(state)
        assert rows(take(second, 12 - stop)) == rows(whole[stop:])
        halves = [stream(main, guided, part=0.25, rank=rank, world=2) for rank in (0, 1)]
        for half in halves:
            half.load_state_dict(state)
        assert list(chain(*(rows(take(half, 1)) for half in halves))) == rows(whole[stop : stop + 1])


def test_threads_change_nothing(main: ShardSource, guided: ShardSource) -> None:
    expected = rows(take(stream(main, guided, part=0.25, threads=1, ahead=1), 8))
    assert rows(take(stream(main, guided, part=0.25, threads=8, ahead=3), 8)) == expected


@pytest.mark.program
def test_processes_change_nothing(
    main: ShardSource, guided: ShardSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rows(take(stream(main, guided, part=0.25, threads=1, ahead=1), 8))
    # Processes start afresh and import what they run, from where they can find it, unlike this file.
    (tmp_path / "drawing_of_rows.py").write_text(
        "from typing import Any\nimport numpy as np\n" + inspect.getsource(draw).replace(": Sample", "")
    )
    monkeypatch.syspath_prepend(tmp_path)
    importable = importlib.import_module("drawing_of_rows").draw
    resumed = stream(main, guided, part=0.25, processes=2, transform=importable)
    resumed.load_state_dict({"step": 1})
    assert rows(take(resumed, 7)) == expected[6:]


def test_processes_send_parts_that_make_up_batches_of_any_size(main: ShardSource) -> None:
    assert [_part_size(batches) for batches in ([384], [3072], [7], [4096, 512], [96, 40], [1])] == [64, 64, 7, 64, 8, 1]


PHASES = Course.of([(0, 6), (3, 2), (7, 10)])


def dealt(main: ShardSource, guided: ShardSource, first: int = 0, rank: int = 0, world: int = 1, **reading: Any) -> list[Any]:
    data = stream(main, guided, part=0.25, rank=rank, world=world, **reading)
    data.follow(PHASES)
    data.load_state_dict({"step": first})
    return take(data, 10 - first)


def test_a_changed_batch_goes_on_in_the_order_where_the_one_before_stopped(main: ShardSource, guided: ShardSource) -> None:
    whole = dealt(main, guided)
    assert [len(batch["key"]) for batch in whole] == [6] * 3 + [2] * 4 + [10] * 3
    assert rows(whole) == rows(take(stream(main, guided, part=0.25, batch=1), 56))  # the order itself, none twice
    for first in (1, 3, 5, 7, 9):
        assert rows(dealt(main, guided, first)) == rows(whole[first:])
    halves = [dealt(main, guided, 2, rank, 2) for rank in (0, 1)]
    assert [rows([a]) + rows([b]) for a, b in zip(*halves, strict=True)] == [rows([batch]) for batch in whole[2:]]


def test_a_phase_that_ranks_cannot_share_is_refused(main: ShardSource) -> None:
    with pytest.raises(DataError, match="A global batch of 3 cannot be dealt to 2 ranks"):
        stream(main, world=2).follow(Course.of([(0, 4), (9, 3)]))


def test_what_lies_beside_rows_comes_with_them_from_another_thread(main: ShardSource) -> None:
    where: set[str] = set()

    def beside(index: torch.Tensor) -> dict[str, torch.Tensor]:
        where.add(threading.current_thread().name)
        return {"twice": index * 2}

    data = TrainingData(main, None, 0.0, 6, 1, 0, 1, draw, ReadOptions(threads=1), beside=beside)
    batches = take(data, 5)
    assert all(torch.equal(batch["twice"], batch["index"] * 2) for batch in batches)
    assert rows(batches) == rows(take(stream(main), 5)) and data.state_dict() == {"step": 5}
    assert all(name.startswith("cache") for name in where)


ROTTEN = {3, 4, 11}


def rotting(sample: Sample, random: np.random.Generator) -> dict[str, Any]:
    if any(sample.key == f"main{row}" for row in ROTTEN):
        raise ValueError("it has rotten")
    return draw(sample, random)


def test_a_rotten_sample_is_replaced_by_the_next_of_the_order_of_its_kind(main: ShardSource, guided: ShardSource) -> None:
    def tolerant(first: int, batch: int = 6, rank: int = 0, world: int = 1) -> list[dict[str, Any]]:
        data = TrainingData(main, guided, 0.25, batch, 1, rank, world, rotting, ReadOptions(threads=2), tolerate=3)
        data.load_state_dict({"step": first})
        return take(data, 12 - first)

    order = [row for row, _ in rows(take(stream(main, guided, part=0.25, batch=1), 90))]
    main_rows = [row for row in order if row < MAIN]
    expected, place = [], 0
    for row in order[:72]:
        place += row < MAIN
        expected.append(next(r for r in main_rows[place - 1 :] if r not in ROTTEN) if row < MAIN else row)
    whole = tolerant(0)
    assert [row for row, _ in rows(whole)] == expected
    told = [json.loads(text) for batch in whole for text in batch["unusable"]]
    assert [bool(each) for each in told] == [row in ROTTEN for row in order[:72]]
    assert {tuple(each) for some in told for each in some} == {
        (f"main{row}", f"The sample 'main{row}' (row {row}) cannot be used: it has rotten") for row in ROTTEN
    }
    assert rows(tolerant(5)) == rows(whole[5:])
    halves = [tolerant(4, rank=rank, world=2) for rank in (0, 1)]
    assert [rows([a]) + rows([b]) for a, b in zip(*halves, strict=True)] == [rows([batch]) for batch in whole[4:]]


def test_what_the_disk_does_not_give_is_a_sample_that_cannot_be_used(main: ShardSource) -> None:
    def failing(sample: Sample, random: np.random.Generator) -> dict[str, Any]:
        raise OSError(5, "Input/output error")

    with pytest.raises(DataError, match="The sample 'main\\d+' .* cannot be used: .*Input/output error"):
        take(stream(main, transform=failing), 1)
    with pytest.raises(DataError, match="More than 2 samples in a row cannot be used. The last: The sample 'main"):
        take(TrainingData(main, None, 0.0, 6, 1, 0, 1, failing, tolerate=2), 1)


def test_a_photograph_that_nobody_looks_at_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)).save(picture, "PNG")
    parts = {"a.face.jpg": FACE, "a.jpg": picture.getvalue(), "a.json": b'{"identity": 3}', "a.txt": b"words"}
    with tarfile.open(tmp_path / "sorted.tar", "w") as tar:  # as `tar --sort=name` orders them: the photograph in the middle
        for name, data in parts.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    lengths: list[int] = []
    read = shards.read_range

    def noted(path: str, start: int, end: int) -> bytes:
        if path == str(tmp_path / "sorted.tar"):  # not those of other tests' threads
            lengths.append(end - start)
        return read(path, start, end)

    monkeypatch.setattr(shards, "read_range", noted)
    sample = ShardSource(tmp_path / "sorted.tar", read=("face", "caption", "meta"))[0]
    assert (sample.face, sample.caption, sample.identity, sample.image) == (FACE, "words", 3, b"")
    assert len(lengths) == 2 and sum(lengths) < len(FACE) + 4096 < len(parts["a.jpg"])
    assert ShardSource(tmp_path / "sorted.tar")[0].image == parts["a.jpg"] and len(lengths) == 3


def test_an_iterator_goes_on_where_the_last_one_stopped(main: ShardSource) -> None:
    data = stream(main)
    assert rows(take(data, 2)) + rows(take(data, 3)) == rows(take(stream(main), 5))
    assert data.state_dict() == {"step": 5}


def test_batch_smaller_than_ranks(main: ShardSource) -> None:
    with pytest.raises(DataError, match="A global batch of 3 cannot be dealt to 4 ranks.* Choose a multiple of 4"):
        stream(main, batch=3, world=4)
    with pytest.raises(DataError, match="A global batch of 6 cannot be dealt to 4 ranks"):
        stream(main, batch=6, world=4)
    with pytest.raises(DataError, match="Rank 4 is not among 4"):
        stream(main, batch=8, rank=4, world=4)


def test_lambda_and_guided_shards_belong_together(main: ShardSource, guided: ShardSource) -> None:
    with pytest.raises(DataError, match="There are no guided shards and a guided fraction of 0.2. Give both"):
        stream(main, part=0.2)
    with pytest.raises(DataError, match="There are guided shards and a guided fraction of 0"):
        stream(main, guided)
    with pytest.raises(DataError, match="The guided fraction is 1.0; it lies from 0"):
        stream(main, guided, part=1.0)


def test_main_samples_without_a_face(tmp_path: Path) -> None:
    source = write(tmp_path, "bare", 5, None)
    with pytest.raises(DataError, match="5 of 5 samples of the main shards have no face. Give them as guided shards"):
        stream(source)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"face": jpeg(112, 112)}, "cannot be used: its face is 112 x 112 px where 448 x 448 is expected"),
        ({"face": FACE[:300]}, "its face is not a picture, or is cut short"),
        ({"caption": " \n"}, "its caption is missing"),
        ({"image": b""}, "its photograph is missing"),
        ({"image": b"GIF?"}, "its photograph is not a picture"),
    ],
)
def test_a_bad_sample_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    source = write(tmp_path, "bad", 1, FACE, **changes)
    with pytest.raises(DataError, match=f"The sample 'bad0' \\(row 0\\) .*{message}"):
        take(stream(source, batch=1, transform=DecodeSample(image_size=16)), 1)


def test_rows_of_different_shapes() -> None:
    with pytest.raises(DataError, match="The x of sample 'b' has shape \\[3\\], others of the batch \\[2\\]"):
        collate([{"key": "a", "x": np.zeros(2)}, {"key": "b", "x": np.zeros(3)}])


def test_the_middle_of_a_photograph_is_what_clip_sees() -> None:
    picture = Image.new("RGB", (300, 100), (255, 0, 0))
    picture.paste((0, 255, 0), (100, 0, 200, 100))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    sample = Sample("k", buffer.getvalue(), None, "words")
    entries = DecodeSample(image_size=50, faces=False)(sample, np.random.default_rng(0))
    assert set(entries) == {"caption", "ids", "image"}
    assert entries["image"][1, :, 2:-2].min() > 250 and entries["image"][0, :, 2:-2].max() < 5


def test_a_large_jpeg_is_decoded_at_a_fraction_and_looks_the_same(astronaut: np.ndarray) -> None:
    buffer = io.BytesIO()
    Image.fromarray(astronaut).resize((1200, 900)).save(buffer, "JPEG", quality=92)
    assert min(decode(buffer.getvalue(), "", 128).size) in range(128, 256)
    quick = DecodeSample(image_size=64, faces=False)(Sample("k", buffer.getvalue(), None, "w"), np.random.default_rng(0))["image"]
    exact = clip_crop(decode(buffer.getvalue(), ""), 64)
    assert np.abs(quick.astype(float) - exact).mean() < 1
