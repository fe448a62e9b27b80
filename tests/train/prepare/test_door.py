"""Tables, folders and texts as people's tools write them: every row is read, or told in one sentence."""

from __future__ import annotations

import io
import json
import logging
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from train.data.shards import Sample, ShardError, ShardSource, find_shards, write_shard
from train.data.texts import decode_text, name_of
from train.prepare.command import prepare
from train.prepare.filters import Filters
from train.prepare.photographs import read_photo, without_metadata
from train.prepare.sources import BrokenRecord, Columns, FolderUnit, Record, SourceError, find_units
from train.prepare.unit import Options


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48), (200, 100, 50)).save(path)
    return path


def records(source: Path, columns: Columns | None = None) -> list[Any]:
    return [record for unit in find_units(str(source), 100, columns or Columns()) for record in unit.records()]


def captions(source: Path, columns: Columns | None = None) -> list[str | None]:
    return [record.caption for record in records(source, columns)]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"])
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_only_line_ends_end_a_row(tmp_path, separator, ending):
    tab = "," if ending == "csv" else "\t"
    table = write(tmp_path / f"t.{ending}", f"path{tab}caption\na.jpg{tab}a man{separator}on a beach\nb.jpg{tab}a hat\n")
    assert captions(table) == [f"a man{separator}on a beach", "a hat"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (['"why is the sky blue', "plain"], ['"why is the sky blue', "plain"]),
        (['"first', 'second"'], ['"first', 'second"']),
        (['"quoted ""as"" pandas does"', "plain"], ['quoted "as" pandas does', "plain"]),
        (['he said "no" to it', '"a" and "b"'], ['he said "no" to it', '"a" and "b"']),
    ],
)
def test_quotes_in_a_tsv(tmp_path, cells, expected, end):
    rows = "".join(f"{number}.jpg\t{cell}{end}" for number, cell in enumerate(cells))
    assert captions(write(tmp_path / "t.tsv", f"path\tcaption{end}{rows}")) == expected


def test_a_quoted_line_break_in_a_tsv(tmp_path):
    table = write(tmp_path / "t.tsv", 'path\tcaption\na.jpg\t"two\nlines"\nb.jpg\tone\n')
    assert captions(table) == ["two\nlines", "one"]


def test_a_quotation_mark_that_never_closes_is_told(tmp_path):
    for rows in ("b.jpg,x\n", "b.jpg,x\n" * 30_000):
        with pytest.raises(SourceError, match=r"t\.csv cannot be read .*quotation mark"):
            records(write(tmp_path / "t.csv", 'path,caption\na.jpg,"oops\n' + rows))


@pytest.mark.parametrize(
    "rows",
    [
        '0.jpg,"he said "yes" to us"\n1.jpg,"why is the sky blue\n2.jpg,plain\n3.jpg,last\n',
        '1.jpg,"why is the sky blue\n2.jpg,plain\n3.jpg,"last\n4.jpg,more\n',
    ],
)
def test_no_row_is_lost_in_another_that_is_quoted_wrongly(tmp_path, rows):
    with pytest.raises(SourceError, match=r"t\.csv cannot be read .*line \d.*quotation mark"):
        captions(write(tmp_path / "t.csv", "path,caption\n" + rows))


def test_a_mark_within_a_quoted_cell_is_kept_where_no_row_can_be_lost(tmp_path):
    table = write(tmp_path / "t.csv", 'path,caption\n0.jpg,"a man, "Bo" to all"\n1.jpg,"a hat"\n')
    assert captions(table)[1] == "a hat"


def test_a_comma_that_cuts_a_caption_is_told(tmp_path):
    with pytest.raises(SourceError, match=r"has 2 columns, and a row of 3 cells, which begins with '1\.jpg'"):
        captions(write(tmp_path / "t.csv", "path,caption\n0.jpg,a hat,\n1.jpg,a man, on a beach\n"))


def test_a_folder_that_is_called_like_a_table_is_told(tmp_path):
    (tmp_path / "t.csv").mkdir()
    with pytest.raises(SourceError, match=r"t\.csv cannot be opened"):
        records(tmp_path / "t.csv")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_marks_at_the_start_of_texts(tmp_path, encoding):
    photo = picture(tmp_path / "d/a.jpg")
    photo.with_suffix(".txt").write_text("a man on a beach", encoding=encoding)
    photo.with_suffix(".json").write_text('{"identity": "Anné"}', encoding=encoding)
    table = tmp_path / "t.csv"
    table.write_text("path,caption,identity\nd/a.jpg,a man on a beach,Anné\n", encoding=encoding)
    for source in (tmp_path / "d", table):
        (record,) = records(source)
        assert (record.caption, record.identity) == ("a man on a beach", "Anné")
    sample = Sample("a", photo.read_bytes(), None, "", {})
    write_shard(tmp_path / "s.tar", [sample])
    assert decode_text("x".encode(encoding)) == "x"


def test_a_parquet_of_hugging_face(tmp_path):
    data = picture(tmp_path / "0.jpg").read_bytes()
    rows = [{"bytes": data, "path": "0.jpg"}, {"bytes": None, "path": "0.jpg"}, None]
    texts = [["first", "second"], [None, "only"], ["lost"]]
    pq.write_table(pa.table({"image": rows, "caption": texts, "identity": [1.0, None, 2.0]}), tmp_path / "t.parquet")
    first, second, third = records(tmp_path / "t.parquet")
    assert (first.photo, first.caption, first.identity) == (data, "first", "1")
    assert (second.photo, second.caption, second.identity) == (f"{tmp_path}/0.jpg", "only", None)
    assert isinstance(third, BrokenRecord) and "names no photograph" in third.problem
    pq.write_table(pa.table({"image": [data], "caption": ["bytes"]}), tmp_path / "t.parquet")
    assert records(tmp_path / "t.parquet")[0].photo == data


def test_a_parquet_with_damaged_pages_is_told(tmp_path):
    table = pa.table({"path": [f"p{i}.jpg" for i in range(200)], "caption": ["c"] * 200})
    pq.write_table(table, tmp_path / "t.parquet", compression="snappy")
    content = bytearray((tmp_path / "t.parquet").read_bytes())
    content[4:60] = b"\xff" * 56
    (*_, last) = records(write(tmp_path / "u.parquet", bytes(content)))
    assert isinstance(last, BrokenRecord) and "u.parquet cannot be read" in last.problem
    with pytest.raises(SourceError, match="not a parquet file, or is damaged"):
        records(write(tmp_path / "v.parquet", bytes(content[:-30])))


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (Columns(), "no column 'caption' with captions; it has path, text. Name it with --caption-column"),
        (Columns(image_column="file"), "no column 'file' with the photographs' paths; it has path, text"),
        (Columns(caption_column="text", identity_column="who"), "no column 'who'; it has path, text. Check --identity-column"),
        (Columns(caption_column="text", class_column="what"), "no column 'what'; it has path, text. Check --class-column"),
    ],
)
def test_a_column_that_is_absent_is_told_with_those_that_are_there(tmp_path, columns, told):
    picture(tmp_path / "0.jpg")
    table = write(tmp_path / "t.csv", "path,text\n0.jpg,a man\n")
    with pytest.raises(SourceError, match=told):
        find_units(str(table), 100, columns, need_captions=True)
    assert captions(table) == [None]  # a model will write it


@pytest.mark.parametrize(
    ("value", "name"),
    [(1, "1"), (1.0, "1"), ("1.0", "1"), ("-3.00", "-3"), ("01", "01"), ("1.5", "1.5"), (float("nan"), None), ("", None)]
    + [(unicodedata.normalize(form, "Zoé"), "Zoé") for form in ("NFC", "NFD")]
    + [(None, None), (" ann ", "ann"), (b"ann", "ann")],
)
def test_a_person_has_one_name(value, name):
    assert name_of(value) == name


def test_a_table_from_windows_or_a_mac_finds_its_pictures(tmp_path):
    picture(tmp_path / "sub" / "a.jpg")
    picture(tmp_path / unicodedata.normalize("NFC", "Zoé.jpg"))
    rows = ("sub\\a.jpg", unicodedata.normalize("NFD", "Zoé.jpg"), "gone\\b.jpg")
    table = write(tmp_path / "t.csv", "path,caption\n" + "".join(f"{row},a man\n" for row in rows))
    found = [record.photo for record in records(table)]
    assert found == [f"{tmp_path}/sub/a.jpg", str(tmp_path / unicodedata.normalize("NFC", "Zoé.jpg")), f"{tmp_path}/gone\\b.jpg"]


def test_captions_in_capitals_and_in_the_other_form_of_accents(tmp_path):
    for photo, text in (
        ("A.JPG", "A.TXT"),
        ("b.jpg", "B.Txt"),
        (unicodedata.normalize("NFC", "é.jpg"), unicodedata.normalize("NFD", "é.txt")),
    ):
        picture(tmp_path / photo)
        (tmp_path / text).write_text(f"of {photo}")
    picture(tmp_path / "c.jpg")
    (tmp_path / "C.txt").write_text("one")
    (tmp_path / "c.TXT").write_text("of c.jpg")
    assert all(record.caption == f"of {Path(record.photo).name}" for record in records(tmp_path))


def test_hidden_and_deleted_pictures_are_left_out(tmp_path):
    theirs = ["a.jpg", "in/b.jpg"]
    others = [
        ".ipynb_checkpoints/a.jpg",
        "__MACOSX/a.jpg",
        "in/._b.jpg",
        "$RECYCLE.BIN/x.jpg",
        "@eaDir/a.jpg",
        ".Trash-1000/y.jpg",
    ]
    for name in (*theirs, *others):
        picture(tmp_path / name)
    (tmp_path / "folder.jpg").mkdir()
    (unit,) = find_units(str(tmp_path), 100, Columns())
    assert isinstance(unit, FolderUnit) and list(unit.names) == theirs


def test_links_are_followed_once(tmp_path):
    root = tmp_path / "d"
    picture(root / "real/a.jpg")
    picture(tmp_path / "elsewhere/b.jpg")
    (root / "alias").symlink_to(root / "real", target_is_directory=True)
    (root / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "again").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "real/up").symlink_to(root, target_is_directory=True)
    (unit,) = find_units(str(root), 100, Columns())
    assert isinstance(unit, FolderUnit) and sorted(unit.names) == ["again/b.jpg", "real/a.jpg"]


def test_a_tar_among_pictures_and_a_picture_among_tars(tmp_path, caplog):
    photo = picture(tmp_path / "d/0.jpg")
    write_shard(tmp_path / "d/backup.tar", [Sample("x", photo.read_bytes(), None, "a hat", {})])
    with caplog.at_level(logging.WARNING):
        assert captions(tmp_path / "d") == ["a hat"]
    assert "its 1 pictures without captions, such as 0.jpg, are left out" in caplog.text
    photo.with_suffix(".txt").write_text("a man")
    assert captions(tmp_path / "d") == ["a man", "a hat"]
    assert "holds pictures and 1 tars: both are read" in caplog.text


def test_a_jpeg_with_padding_is_stored_as_it_is():
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
    data = buffer.getvalue()
    first = 4 + int.from_bytes(data[4:6], "big")
    padded = data[:first] + bytes(7) + data[first:]
    assert read_photo(padded, "a")[0] == without_metadata(data) == without_metadata(padded)
    assert np.array_equal(read_photo(data[:-2], "a")[1], read_photo(data, "a")[1])


@pytest.mark.parametrize("label", ["anna", None, 1e400, True, 1.5, -2, 2**63, [1]])
def test_an_identity_that_is_no_label_is_told(tmp_path, label):
    photo = picture(tmp_path / "a.jpg").read_bytes()
    write_shard(tmp_path / "s.tar", [Sample("a", photo, None, "c", {"identity": label})])
    with pytest.raises(ShardError, match="The sample 'a' has the identity .*Labels are whole numbers"):
        _ = ShardSource(tmp_path / "s.tar")[0].identity
    assert isinstance(records(tmp_path / "s.tar")[0], Record)


def test_a_missing_shard_whose_index_stayed_is_told(tmp_path):
    photo = picture(tmp_path / "a.jpg").read_bytes()
    for number in range(2):
        write_shard(tmp_path / f"{number}.tar", [Sample("a", photo, None, "c", {})])
    (tmp_path / "1.tar").unlink()
    with pytest.raises(ShardError, match=r"1\.tar\.index has no shard 1\.tar beside it"):
        find_shards([tmp_path])
    with pytest.raises(ShardError, match=r"1\.tar\.index has no shard 1\.tar beside it"):
        find_shards([f"{tmp_path}/*.tar"])
    with pytest.raises(SourceError, match=r"1\.tar\.index has no shard 1\.tar beside it"):
        records(tmp_path)


def test_what_a_mac_leaves_beside_shards_is_none(tmp_path):
    photo = picture(tmp_path / "a.jpg").read_bytes()
    write_shard(tmp_path / "s" / "0.tar", [Sample("a", photo, None, "c", {})])
    write(tmp_path / "s" / "._0.tar", b"\0\5\x16\7" + bytes(4092))
    assert find_shards([tmp_path / "s"]) == [str(tmp_path / "s" / "0.tar")]
    assert len(records(tmp_path / "s")) == 1


@pytest.mark.parametrize("change", [(512, 1 << 40), (-5, 100), (1 << 62, 1)])
def test_an_index_that_points_outside_of_its_shard_is_told(tmp_path, change):
    photo = picture(tmp_path / "a.jpg").read_bytes()
    write_shard(tmp_path / "s.tar", [Sample("a", photo, None, "c", {})])
    index = tmp_path / "s.tar.index"
    content = bytearray(index.read_bytes())
    length = int.from_bytes(content[:8], "little")
    start = 8 + length + json.loads(content[8 : 8 + length])["spans"]["data_offsets"][0]
    content[start : start + 16] = np.array(change, np.int64).tobytes()
    index.write_bytes(content)
    with pytest.raises(ShardError, match="is damaged: it places sample 'a' outside of the shard"):
        _ = ShardSource(tmp_path / "s.tar")[0]


def test_one_person_in_two_tables_has_one_label(tmp_path):
    picture(tmp_path / "0.jpg")
    labels = []
    for number, name in enumerate(("1", "1.0")):
        table = write(tmp_path / f"{number}.csv", f"path,caption,identity\n0.jpg,a man,{name}\n")
        options = Options(filters=Filters(faces=False, min_side=16, min_words=1))
        prepare(str(table), str(tmp_path / f"out{number}"), options)
        labels.append(ShardSource(tmp_path / f"out{number}")[0].identity)
    assert labels[0] == labels[1]
