"""Preparing millions: what is held in memory, what is looked at together, and what the bar shows."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from faceclip.face import Face
from train.data.shards import Sample, write_shard
from train.data.storage import publish
from train.prepare import names as names_on_disk
from train.prepare.command import prepare
from train.prepare.filters import Filters, Preparer
from train.prepare.names import SortedNames
from train.prepare.progress import Progress
from train.prepare.report import Report
from train.prepare.sources import BrokenRecord, Columns, Record, find_units
from train.prepare.unit import TOGETHER, Options, Work, preparer, unit_report

from .dropped import dropped_lines

CAPTION = "an astronaut in an orange suit"
MANY = 10_000
"""Names that take 1.2 MB where all are held, and rows that take 3.5 MB."""


def peak_of(work: Any) -> float:
    """MB that Python's objects took at the fullest moment."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def test_names_are_sorted_in_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_on_disk, "CHUNK", 3_000)
    found: list[SortedNames] = []
    given = (f"photos/{number * 7919 % MANY:09d}_\udcff.jpg" for number in range(MANY))
    assert peak_of(lambda: found.append(SortedNames(given))) < 1
    assert len(found[0]) == MANY
    for _ in range(2):
        names = iter(found[0])
        assert [next(names) for _ in range(2)] == ["photos/000000000_\udcff.jpg", "photos/000000001_\udcff.jpg"]
    assert sum(1 for _ in found[0]) == MANY
    assert list(SortedNames([])) == [] and list(SortedNames(["b", "a\nb"])) == ["a\nb", "b"]


def test_a_tables_rows_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    with table.open("w") as file:
        file.write("path,caption\n")
        file.writelines(f"{number:09d}.jpg,a person with a hat and the number {number}\n" for number in range(MANY))

    def read() -> None:
        units = find_units(str(table), 1000, Columns())
        assert len(units) == MANY // 1000 and units.records == MANY
        assert sum(sum(1 for _ in unit.records()) for unit in units) == MANY

    assert peak_of(read) < 1


def test_a_folder_is_listed_in_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    count = 6_000
    for number in range(count):
        (folder / f"a_photograph_with_a_long_name_{number:09d}.jpg").touch()
    monkeypatch.setattr(names_on_disk, "CHUNK", 500)
    found: list[Any] = []

    def read() -> None:
        units = find_units(str(folder), 500, Columns())
        assert units.records == count
        found.extend(len(list(unit.records())) for unit in units)

    assert min(peak_of(read), peak_of(read)) < 1.5  # once something else in the process took 15 MB meanwhile
    assert found == [500] * 12 * 2


class _Noting:
    """A detector and a captioner that note how many pictures they are shown."""

    name, tried = "noting", "looked once"
    looks = 1

    def __init__(self) -> None:
        self.looked: list[int] = []
        self.captioned: list[int] = []

    def detect(self, image: np.ndarray) -> list[Face]:
        return self.look([image], 0)[0]

    def passes(self, image: np.ndarray) -> Iterator[list[Face]]:
        yield self.detect(image)

    def look(self, images: Sequence[np.ndarray], number: int) -> list[list[Face]]:
        self.looked.append(len(images))
        points = np.array([(130, 130), (180, 130), (155, 160), (135, 185), (175, 185)], dtype=np.float32)
        # A picture that is blue in its corner shows no face.
        return [[] if image[0, 0, 2] > 200 else [Face((100, 100, 210, 210), points, "arcface", 0.9)] for image in images]

    def caption(self, photos: Sequence[np.ndarray]) -> list[str]:
        self.captioned.append(len(photos))
        return ["a man" if photo[0, 0, 0] > 200 else CAPTION for photo in photos]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """20 photographs, of which number 2 shows no face, number 3 would get a short caption, and 4 is no picture."""
    random = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(20):
        photo = random.integers(0, 255, (300, 300, 3), dtype=np.uint8)
        photo[:9, :9] = {2: (0, 0, 255), 3: (255, 0, 0)}.get(number, (0, 0, 0))
        Image.fromarray(photo).save(folder / f"{number:02d}.png")
        if number % 2:
            (folder / f"{number:02d}.txt").write_text(CAPTION if number != 3 else "")
    (folder / "04.png").write_bytes(b"nothing")
    return folder


def test_faces_are_looked_for_together_and_only_what_is_kept_is_captioned(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noting = _Noting()
    made = Preparer(Filters(min_sharpness=0), noting, noting.caption)
    monkeypatch.setattr("train.prepare.unit.preparer", lambda options: made)
    report = prepare(str(folder), str(tmp_path / "out"), Options())
    assert noting.looked == [TOGETHER - 1, 20 - TOGETHER]  # number 4 cannot be read
    # Of the first 16 that are read: 7 even ones, less number 2 and number 4, and number 3; then two.
    assert noting.captioned == [7, 2]
    assert [(line["key"], line["reason"]) for line in dropped_lines(tmp_path / "out")] == [
        ("02", "no face"),
        ("03", "short caption"),
        ("04", "broken photograph"),
    ]
    assert report.kept == 17


def test_what_was_dropped_is_summed_up_in_little_memory(tmp_path: Path) -> None:
    table, out = tmp_path / "table.csv", tmp_path / "out"
    table.write_text("path,caption\n" + "".join(f"{number:09d}.jpg,a hat\n" for number in range(MANY)))
    for unit in range(MANY // 1000):  # as workers leave them
        report = Report()
        for number in range(unit * 1000, unit * 1000 + 1000):
            report.drop(f"{number:09d}", "no face", "the photograph shows no face that a detector finds", {"photo": 800.0})
        publish(unit_report(str(out), unit), report.to_json().encode())
    found: list[Report] = []
    assert peak_of(lambda: found.append(prepare(str(table), str(out)))) < 2.5  # lines that are held take 3.3 MB
    assert found[0].seen == found[0].dropped["no face"] == MANY and not found[0].lines
    assert found[0].dropped_histograms["photo"][10] == MANY
    assert found[0] == Report.from_json((out / "report.json").read_bytes())
    assert [line["key"] for line in dropped_lines(out)] == [f"{number:09d}" for number in range(MANY)]


def test_large_photographs_are_looked_at_in_smaller_groups(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noting = _Noting()
    monkeypatch.setattr("train.prepare.unit.preparer", lambda options: Preparer(Filters(), noting, noting.caption))
    monkeypatch.setattr("train.prepare.unit.PIXELS_TOGETHER", 5 * 300 * 300)
    prepare(str(folder), str(tmp_path / "out"), Options())
    assert noting.looked == [5, 5, 5, 4]


def test_the_packs_own_detector_works_where_the_worker_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr("train.prepare.unit.worker_device", lambda: "cuda:1")
    monkeypatch.setattr("train.prepare.unit.load_detector", lambda *given, device: asked.append((given[0], device)))
    monkeypatch.setattr("train.prepare.unit.load_captioner", lambda *given: asked.append(given))
    preparer.__wrapped__(Options(caption_model="a/model", caption_prompt="What is it?"))
    assert asked == [("yunet", "cuda:1"), ("a/model", "What is it?", "cuda:1")]


def test_the_bar_moves_with_every_photograph_towards_a_total(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.prepare.unit.preparer", lambda options: Preparer(Filters(faces=False, min_words=0), None))
    seen: list[tuple[int, int | None]] = []
    options = Options(shard_size=8)
    prepare(str(folder), str(tmp_path / "out"), options, progress=lambda now: seen.append((now.records, now.total)))
    counts = [records for records, _ in seen]
    assert sorted(set(counts)) == list(range(21)) and counts == sorted(counts)
    assert {total for _, total in seen} == {20}
    (tmp_path / "out" / "units" / "000001.json").unlink()
    seen.clear()
    prepare(str(folder), str(tmp_path / "out"), options, progress=lambda now: seen.append((now.records, now.total)))
    assert seen[0] == (12, 20) and seen[-1] == (20, 20)


def test_of_tars_the_total_is_what_those_that_are_done_make_likely() -> None:
    now = Progress(0, known=0, tars=4)
    assert now.total is None
    now.count(None, 90)
    now.count(None, 110)
    assert now.total == 400
    assert Progress(0, known=30, tars=0).total == 30


def test_a_unit_tells_of_records_that_it_cannot_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = tmp_path / "a.png"
    Image.fromarray(np.zeros((300, 300, 3), np.uint8)).save(photo)
    broken, good = BrokenRecord("a", "its json is none"), Record("a", str(photo), CAPTION)
    unit = type("Unit", (), {"records": lambda self: iter([broken, good, good, broken]), "size": 4})()
    monkeypatch.setattr("train.prepare.unit.preparer", lambda options: Preparer(Filters(faces=False), None))
    told: list[int] = []
    monkeypatch.setattr("train.prepare.unit.tell", lambda: told.append(1))
    _, report = Work(str(tmp_path / "out"), Options())((0, unit))
    assert len(told) == 4
    assert b'"dropped": {"broken record": 2, "repeated key": 1}' in report and b'"kept": 1' in report


def test_tars_are_units_of_unknown_size(tmp_path: Path) -> None:
    for number in range(2):
        sample = Sample("x", b"no picture", None, "a hat", {})
        write_shard(tmp_path / f"{number}.tar", [sample])
    units = find_units(str(tmp_path), 10, Columns())
    assert (len(units), units.tars, units.size_of(0)) == (2, 2, None)
