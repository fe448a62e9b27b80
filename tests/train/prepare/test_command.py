"""Preparing: what is kept, what is dropped and why, and that a killed run ends as if it had not been killed."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from faceclip.face import align_face, detect_faces, load_detector, load_photo
from train.data.decode import decode_face
from train.data.shards import Sample, ShardSource, write_shard
from train.prepare.command import PrepareError, main, prepare
from train.prepare.filters import DroppedError, Filters, Preparer, identity_label
from train.prepare.histograms import WIDTH
from train.prepare.progress import Progress
from train.prepare.report import Report
from train.prepare.sources import Record, SourceError
from train.prepare.unit import DetectorChoice, Options

from .dropped import dropped_lines

DLIB = DetectorChoice(detector="dlib")
CAPTION = "an astronaut in an orange suit"


def save(path: Path, picture: Image.Image, caption: str | None = CAPTION, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption + "\n")
    return path


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == "JPEG"
        return np.asarray(picture)


@pytest.fixture(scope="module")
def portrait(astronaut: np.ndarray) -> Image.Image:
    """One face of about 120 px, in a picture that is quick to search."""
    return Image.fromarray(astronaut[:320, 80:400])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, portrait: Image.Image) -> Path:
    """A folder as people have them: good pictures in several formats, and everything that can be wrong."""
    root = tmp_path_factory.mktemp("photos")
    save(root / "ann" / "good.jpg", portrait, quality=92)
    (root / "ann" / "good.json").write_text('{"identity": "Ann"}')
    save(root / "ann" / "as.png.png", portrait)
    rotated = Image.Exif()
    rotated[0x0112] = 6  # to be turned by 90 degrees
    save(root / "turned" / "exif.jpg", portrait.transpose(Image.Transpose.ROTATE_90), exif=rotated)
    save(root / "bad" / "blurred.jpg", portrait.filter(ImageFilter.GaussianBlur(3)))
    save(root / "bad" / "nocaption.jpg", portrait, None)
    save(root / "bad" / "short.jpg", portrait, "woman")
    save(root / "bad" / "small.jpg", portrait.resize((120, 120)))
    save(root / "bad" / "noface.jpg", Image.radial_gradient("L").resize((300, 300)))
    save(root / "bad" / "cut.jpg", portrait)
    (root / "bad" / "cut.jpg").write_bytes((root / "bad" / "cut.jpg").read_bytes()[:5000])
    save(root / "bad" / "empty.jpg", portrait)
    (root / "bad" / "empty.jpg").write_bytes(b"")
    save(root / "bad" / "text.png", portrait)
    (root / "bad" / "text.png").write_text("this is no picture")
    save(root / "bad" / "json.jpg", portrait)
    (root / "bad" / "json.json").write_text("{broken")
    both = Image.new("RGB", (640, 320))
    both.paste(portrait, (0, 0))
    both.paste(portrait, (320, 0))
    save(root / "bad" / "two.jpg", both)
    return root


@pytest.fixture(scope="module")
def prepared(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    out = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("faceclip.face.dlib_backend.CNN_SIZES", ())  # ten seconds, for the one picture without a face
        return out, prepare(str(folder), str(out), Options(face_detector=DLIB, shard_size=4))


def test_good_pictures_are_kept_with_face_caption_and_measurements(
    folder: Path, prepared: tuple[Path, Report], portrait: Image.Image
) -> None:
    source = ShardSource(prepared[0])
    rows = {sample.key: sample for sample in (source[row] for row in range(len(source)))}
    assert set(rows) == {"ann__good", "ann__as_png", "turned__exif"}
    good = rows["ann__good"]
    np.testing.assert_array_equal(pixels(good.image), pixels((folder / "ann" / "good.jpg").read_bytes()))  # not compressed again
    assert good.caption == CAPTION and good.identity == identity_label("Ann") and good.meta["person"] == "Ann"
    assert good.meta["size"] == [320, 320] and good.meta["landmark_kind"] == "dlib"
    assert 80 < good.meta["quality"]["size"] < 200 and abs(good.meta["quality"]["yaw"]) < 30
    photo = load_photo(folder / "ann" / "good.jpg")
    face = detect_faces(load_detector("dlib"), photo)[0]
    np.testing.assert_allclose(good.meta["landmarks"], face.landmarks, atol=0.01)
    crop = align_face(photo, face).image.transpose(2, 0, 1)
    assert np.abs(decode_face(good.face) - crop).mean() < 0.01
    assert rows["ann__as_png"].identity == -1 and pixels(rows["ann__as_png"].image).shape == (320, 320, 3)
    with Image.open(io.BytesIO(rows["turned__exif"].image)) as upright:
        assert np.abs(np.asarray(upright, float) - np.asarray(portrait, float)).mean() < 6
        assert upright.getexif().get(0x0112) in (None, 1)


def test_everything_else_is_one_line_of_the_report(prepared: tuple[Path, Report]) -> None:
    out, report = prepared
    lines = {line["key"]: line for line in dropped_lines(out)}
    assert {key: line["reason"] for key, line in lines.items()} == {
        "bad__blurred": "blurred face",
        "bad__nocaption": "no caption",
        "bad__short": "short caption",
        "bad__small": "small photograph",
        "bad__noface": "no face",
        "bad__cut": "broken photograph",
        "bad__empty": "broken photograph",
        "bad__text": "broken photograph",
        "bad__json": "broken record",
        "bad__two": "several people",
    }
    assert "damaged or cut short" in lines["bad__cut"]["detail"] and "cut.jpg" in lines["bad__cut"]["detail"]
    assert "120 x 120 px" in lines["bad__small"]["detail"] and "1 word(s): 'woman'" in lines["bad__short"]["detail"]
    assert report.kept == 3 and report.seen == 13
    assert Report.from_json((out / "report.json").read_bytes()) == report
    assert sum(report.kept_histograms["face"]) == 3 and sum(report.dropped_histograms["sharpness"]) == 2
    with Image.open(out / "report.png") as picture:
        assert picture.width == WIDTH and len(picture.convert("RGB").getcolors(1 << 20) or []) > 3
    assert report.summary().startswith("3 kept of 13\n")


def test_a_second_run_does_nothing_and_other_options_are_refused(folder: Path, prepared: tuple[Path, Report]) -> None:
    out, report = prepared
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.tar*")}
    calls: list[Progress] = []
    options = Options(face_detector=DLIB, shard_size=4)
    assert prepare(str(folder), str(out), options, progress=calls.append) == report
    assert [(now.records, now.total) for now in calls] == [(13, 13)] and before == {
        path: path.stat().st_mtime_ns for path in out.rglob("*.tar*")
    }
    with pytest.raises(PrepareError, match="made with other min_face \\(80, now 10\\). Choose another folder"):
        prepare(str(folder), str(out), Options(Filters(min_face=10), face_detector=DLIB, shard_size=4))
    with pytest.raises(PrepareError, match="units .*; pictures in the source"):
        prepare(str(folder / "ann"), str(out), options)


def test_shards_do_not_go_among_the_pictures(folder: Path) -> None:
    for out in (folder, folder / "shards"):
        with pytest.raises(
            PrepareError, match="lies within the source, whose pictures would then change. Choose a folder outside"
        ):
            prepare(str(folder), str(out))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray) -> Path:
    """Two good pictures."""
    root = tmp_path_factory.mktemp("many")
    for n in range(2):
        save(root / f"{n}.jpg", Image.fromarray(astronaut[n : 300 + n, 100 : 380 + n]))
    return root


def test_tables_name_photographs_captions_and_people(many: Path, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [
        {"path": "0.jpg", "caption": f"{CAPTION}, zero", "identity": "7"},
        {"path": str(many / "1.jpg"), "caption": f"{CAPTION}; one, two", "identity": None},
        {"path": "missing.jpg", "caption": CAPTION, "identity": "8"},
        {"path": None, "caption": CAPTION, "identity": None},
    ]
    with (many / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    renamed = [{"file": row["path"], "text": row["caption"], "person": row["identity"]} for row in rows]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(renamed), many / "table.parquet", row_group_size=2)
    flags = ["--image-column", "file", "--caption-column", "text", "--identity-column", "person"]
    for name, more in (("table.csv", []), ("table.parquet", flags)):
        out = tmp_path / name
        assert main([str(many / name), str(out), *more, "--detector", "dlib", "--shard-size", "3", "--workers", "1"]) == 0
        source = ShardSource(out)
        assert [source.key(row) for row in range(len(source))] == ["000000000", "000000001"]
        assert [source[row].caption for row in (0, 1)] == [f"{CAPTION}, zero", f"{CAPTION}; one, two"]
        assert [source[row].identity for row in (0, 1)] == [identity_label("7"), -1]
        dropped = dropped_lines(out)
        assert [line["reason"] for line in dropped] == ["broken photograph", "broken record"]
        assert "row 3 of the table names no photograph" in dropped[1]["detail"]


def test_webdataset_tars_by_url(many: Path, tmp_path: Path, portrait: Image.Image) -> None:
    picture = (many / "0.jpg").read_bytes()
    write_shard("memory://source/b.tar", [Sample("x/one", picture, None, CAPTION, {"identity": 3, "other": 1})])
    write_shard("memory://source/a.tar", [Sample("two", picture[:4000], None, CAPTION), Sample("three", picture, None, "")])
    report = prepare("memory://source", "memory://out", Options(face_detector=DLIB))
    source = ShardSource("memory://out")
    assert len(source) == 1 and source[0].key == "x__one" and source[0].face and source[0].identity == identity_label("3")
    lines = dropped_lines("memory://out")
    assert {line["key"]: line["reason"] for line in lines} == {"two": "broken photograph", "three": "no caption"}
    assert "/tmp" not in lines[0]["detail"] and report.seen == 3
    assert (rows := lines_of_others(tmp_path, picture)) == {
        ("a", "repeated key", "another record of this shard has the same name"),
        ("b", "broken record", "it has no photograph (no .jpg, .png or .webp of its name)"),
        ("c", "broken record", "the sample's caption"),
    }, rows
    import fsspec

    fs = fsspec.filesystem("memory")
    with fs.open("/source/a.tar", "wb") as file:
        file.write(b"")
    report = prepare("memory://source/*.tar", "memory://again", Options(face_detector=DLIB))
    assert report.kept == 1 and "is empty (0 bytes)" in dropped_lines("memory://again")[0]["detail"]


def lines_of_others(folder: Path, picture: bytes) -> set[tuple[str, str, str]]:
    """What is dropped of other people's tar with two samples of one key, one
    without photograph, and one of broken text."""
    import tarfile

    members = [("a.jpg", picture), ("a.txt", CAPTION.encode()), ("b.txt", b"only words here"), ("c.jpg", picture)]
    members += [("c.txt", "un café noir".encode("latin-1")), ("a.jpg", picture), ("a.txt", CAPTION.encode())]
    with tarfile.open(folder / "others.tar", "w") as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    report = prepare(str(folder / "others.tar"), str(folder / "from_others"), Options(face_detector=DLIB))
    assert report.kept == 1
    return {(line["key"], line["reason"], shorten(line["detail"])) for line in dropped_lines(folder / "from_others")}


def shorten(detail: str) -> str:
    return "the sample's caption" if "'c' of" in detail and "has a caption that is not UTF-8" in detail else detail


def test_guided_pairs_need_no_face(folder: Path, tmp_path: Path) -> None:
    assert main([str(folder / "bad"), str(tmp_path), "--no-faces", "--workers", "1"]) == 0
    source = ShardSource(tmp_path)
    assert sorted(source.key(row) for row in range(len(source))) == ["blurred", "noface", "two"]
    assert source.missing("face") == 3


def test_missing_captions_are_written_by_a_model(many: Path, tmp_path: Path) -> None:
    model = tiny_captioner(tmp_path / "model")
    source = save(tmp_path / "in" / "a.jpg", Image.open(many / "0.jpg"), None).parent
    save(source / "b.jpg", Image.open(many / "1.jpg"), CAPTION)
    options = Options(Filters(min_words=1), face_detector=DLIB, caption_model=str(model))
    assert prepare(str(source), str(tmp_path / "out"), options).kept == 2
    rows = ShardSource(tmp_path / "out")
    assert rows[1].caption == CAPTION
    words = rows[0].caption.split()
    assert words and set(words) <= set(VOCABULARY)
    prepare(str(source), str(tmp_path / "again"), options)
    assert ShardSource(tmp_path / "again")[0].caption == rows[0].caption


VOCABULARY = ["red", "green", "blue", "person", "suit"]


def tiny_captioner(path: Path) -> Path:
    """A BLIP with random weights and five words."""
    import torch
    import transformers

    path.mkdir()
    (path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *VOCABULARY]))
    tokenizer = transformers.BertTokenizer(str(path / "vocab.txt"), bos_token="[DEC]")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    special = {"bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    text = {**sizes, "vocab_size": 11, "encoder_hidden_size": 16, "max_position_embeddings": 80, **special}
    config = transformers.BlipConfig(
        text_config=text, vision_config={**sizes, "image_size": 32, "patch_size": 16}, projection_dim=8
    )
    torch.manual_seed(1)
    model: Any = transformers.BlipForConditionalGeneration(config)
    with torch.no_grad():  # special tokens are never likelier than words
        model.text_decoder.cls.predictions.bias[:6] = -10
        model.text_decoder.cls.predictions.decoder.bias[:6] = -10
    model.save_pretrained(path)
    images = transformers.BlipImageProcessor(size={"height": 32, "width": 32})
    transformers.BlipProcessor(images, tokenizer).save_pretrained(path)
    return path


class OneFace:
    """A detector that finds what it is told."""

    name = "told"

    def __init__(self, *faces: Any):
        self.faces = list(faces)

    def detect(self, image: np.ndarray) -> list[Any]:
        return self.faces

    def passes(self, image: np.ndarray):
        yield self.faces


def test_small_and_turned_faces_are_measured(many: Path) -> None:
    from faceclip.face import Face

    def face(nose: float, size: float = 100.0) -> Face:
        x, y = 100.0, 100.0
        points = [(x, y), (x + 40, y), (x + 20 + nose, y + 25), (x + 5, y + 50), (x + 35, y + 50)]
        return Face((x, y, x + size, y + size), np.array(points, dtype=np.float32), "arcface", 0.9)

    record = Record("k", str(many / "0.jpg"), CAPTION)
    filters = Filters(min_sharpness=0)
    assert Preparer(filters, OneFace(face(0)))(record).face
    assert Preparer(filters, OneFace(face(0), face(0, size=30)))(record).face  # someone in the background
    for bad, reason, detail in (
        (face(60), "turned face", "7\\d degrees"),
        (face(0, size=50), "small face", "50 px"),
        (Face((0, 0, 99, 99), np.ones((5, 2), np.float32), "arcface", 0.9), "no face", "all lie in one place"),
    ):
        with pytest.raises(DroppedError, match=f"{reason}: .*{detail}"):
            Preparer(filters, OneFace(bad))(record)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nothing", None, "is not a source of photographs: found nothing there. Give a folder"),
        ("notes.md", "text", "is not a source of photographs: found something else"),
        ("t.csv", "file,caption\na.jpg,x\n", "no column 'path' with the photographs' paths; it has file, caption. Name it with"),
        ("t.csv", "path,caption\n", "has no row below its heading"),
        ("t.csv", "", "no column 'path' .* it has none"),
        ("t.parquet", "text", "is not a parquet file, or is damaged"),
        ("none.parquet", None, "There is no file .*none.parquet"),
        ("none.csv", None, "There is no file .*none.csv"),
    ],
)
def test_sources_that_are_none(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(SourceError, match=message):
        prepare(str(tmp_path / name), str(tmp_path / "out"))


def test_a_folder_without_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    assert main([str(tmp_path / "in"), str(tmp_path / "out")]) == 1
    assert "holds no picture (.jpg, .jpeg, " in capsys.readouterr().err
