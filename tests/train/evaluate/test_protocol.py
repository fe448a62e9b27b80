"""Protocols: the files that are shipped, lists for other tools, and everything that can be wrong with a CSV."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from faceclip.prompt import tokenize
from train.evaluate.command import main
from train.evaluate.protocol import BUILT_IN, ProtocolError, find_images, list_pictures, load_protocol, write_csv


def photo(path: Path, size: int = 16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size, size, 3), 90, np.uint8)).save(path)
    return path


@pytest.fixture
def fifteen(tmp_path: Path) -> Path:
    """A folder of fifteen people: fourteen pictures, and one folder of two."""
    folder = tmp_path / "faces"
    for number in range(14):
        photo(folder / f"p{number:02d}.jpg")
    photo(folder / "zoe" / "b.png")
    photo(folder / "zoe" / "a.png")
    (folder / "notes.txt").write_text("no face")
    return folder


def table(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_internal_v1_like_is_15_people_by_200_prompts_of_four_themes(fifteen: Path) -> None:
    protocol = load_protocol("internal_v1_like", fifteen)
    assert len(protocol.rows) == 3000
    assert len({row.image for row in protocol.rows}) == 3000
    assert len(protocol.people) == 15
    assert protocol.people["zoe"] == [fifteen / "zoe" / "a.png"]
    first, last = protocol.rows[0], protocol.rows[-1]
    assert (first.image, first.identity, first.seed) == ("p00/001_0.png", "p00", 0)
    assert last.image == "zoe/200_0.png"


def test_its_prompts_differ_fit_into_clip_and_say_nothing_about_the_person() -> None:
    content = yaml.safe_load((BUILT_IN / "internal_v1_like.yaml").read_text())
    assert {theme: len(prompts) for theme, prompts in content["prompts"].items()} == dict.fromkeys(
        ("place", "weather", "light", "action"), 50
    )
    prompts = [prompt for theme in content["prompts"].values() for prompt in theme]
    assert len(set(prompts)) == 200
    assert all(prompt.startswith("a person ") for prompt in prompts)
    assert not any(tokenize(prompt, with_identity=True).cut for prompt in prompts)
    words = {word.strip(",") for prompt in prompts for word in prompt.split()}
    assert not words & {"man", "woman", "boy", "girl", "young", "beard", "blonde", "his", "her", "bald", "freckles"}


def test_unsplash_50_takes_the_users_50(tmp_path: Path) -> None:
    for number in range(50):
        photo(tmp_path / f"{number}.jpg")
    protocol = load_protocol("unsplash50", tmp_path)
    assert len(protocol.people) == 50
    assert len(protocol.rows) == 200


def test_the_list_is_a_protocol_again(fifteen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "lists" / "todo.csv"
    assert main(["list", "--protocol", "internal_v1_like", "--faces", str(fifteen), "--out", str(out)]) == 0
    assert "3,000 images of 15 people" in capsys.readouterr().out
    assert out.read_text().splitlines()[0] == "image,identity,reference,prompt,seed"
    assert load_protocol(str(out)).rows == load_protocol("internal_v1_like", fifteen).rows


def test_a_csv_may_leave_cells_empty_and_columns_beside(tmp_path: Path) -> None:
    photo(tmp_path / "refs" / "ann.jpg")
    text = "image,reference,prompt,seed,note\nx\\a.png,ann.jpg,a person,7,good\nb.png,,a cat,,\nc.png,ann.jpg,,,\n"
    protocol = load_protocol(table(tmp_path / "p.csv", text), tmp_path / "refs")
    assert [row.image for row in protocol.rows] == ["x/a.png", "b.png", "c.png"]
    assert [row.identity for row in protocol.rows] == ["ann.jpg", "", "ann.jpg"]
    assert [row.seed for row in protocol.rows] == [7, None, None]
    assert protocol.people == {"ann.jpg": [tmp_path / "refs" / "ann.jpg"]}
    write_csv(protocol, tmp_path / "again.csv")
    assert load_protocol(str(tmp_path / "again.csv")).rows == protocol.rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,prompt\na.png,x\n", "lacks the column reference; it has image, prompt"),
        ("", "lacks the column image and reference and prompt; it has none"),
        ("image,reference,prompt\n", "no row below its header"),
        ("image,reference,prompt\na.png,nobody.jpg,x\n", "references that are not there: .*nobody.jpg"),
        ("image,reference,prompt\na.png,,x\na.png,,y\n", "several rows for one image: a.png"),
        ("image,reference,prompt\n,,x\n", "row 1: the image's file name is empty"),
        ("image,reference,prompt,seed\na.png,,x,one\n", "row 1: the seed 'one' is not a whole number"),
        ("image,reference,prompt,seed\na.png,,x,--3\n", "row 1: the seed '--3' is not a whole number"),
        ("image,reference,prompt\na.png,,a man, on a beach\n", "3 columns, and a row of 4 cells, which begins with 'a.png'"),
        ('image,reference,prompt\na.png,,"why\nb.png,,x\n', "line 3.*quotation mark.*never closes"),
    ],
)
def test_a_csv_that_cannot_be_used_says_why(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=message):
        load_protocol(table(tmp_path / "p.csv", text))


def test_a_csv_in_another_encoding_is_explained(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_bytes("image,reference,prompt\na.png,,caf\u00e9\n".encode("cp1252"))
    with pytest.raises(ProtocolError, match="is cut short, or no text .*Save it as UTF-8"):
        load_protocol(str(tmp_path / "p.csv"))


def test_protocols_and_people_that_do_not_fit_are_named(fifteen: Path, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="no protocol 'other'. Choose one of internal_v1_like, unsplash50"):
        load_protocol("other")
    with pytest.raises(ProtocolError, match="needs the photos of 15 people: .* --faces"):
        load_protocol("internal_v1_like")
    with pytest.raises(ProtocolError, match="made for 50 people, .* shows 15"):
        load_protocol("unsplash50", fifteen)
    with pytest.raises(ProtocolError, match="no folder of faces"):
        load_protocol("unsplash50", tmp_path / "nowhere")
    photo(fifteen / "p00.png")
    with pytest.raises(ProtocolError, match="two entries for p00"):
        load_protocol("internal_v1_like", fifteen)
    with pytest.raises(ProtocolError, match="has to be a .yaml, a .csv or a .tsv"):
        load_protocol(str(photo(tmp_path / "x.png")))
    with pytest.raises(ProtocolError, match="is not a protocol .*'seeds'"):
        load_protocol(table(tmp_path / "p.yaml", "name: x\npeople: 1\n"), fifteen)
    with pytest.raises(ProtocolError, match="0 prompts and 1 seeds"):
        load_protocol(table(tmp_path / "q.yaml", "name: x\npeople: 1\nseeds: [0]\nprompts: {a: []}\n"), fifteen)


def test_images_are_found_in_any_format_and_missing_ones_are_none(tmp_path: Path) -> None:
    protocol = load_protocol(table(tmp_path / "p.csv", "image,reference,prompt\na/1.png,,x\na/2.png,,x\na/3.png,,x\n"))
    png, jpg = photo(tmp_path / "out" / "a" / "1.png"), photo(tmp_path / "out" / "a" / "2.jpg")
    assert find_images(protocol, tmp_path / "out") == [png, jpg, None]
    with pytest.raises(ProtocolError, match="no folder of images"):
        find_images(protocol, tmp_path / "nowhere")
    photo(tmp_path / "flat" / "other.png")
    with pytest.raises(
        ProtocolError, match="None of the 3 images .* first should be a/1.png, found 1 pictures, such as other.png"
    ):
        find_images(protocol, tmp_path / "flat")


def test_a_list_needs_a_csvs_name(fifteen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--protocol", "internal_v1_like", "--faces", str(fifteen), "--out", "x.txt"]) == 1
    assert "x.txt is not the name of a .csv file" in capsys.readouterr().err


@pytest.mark.parametrize(("ending", "encoding"), [("csv", "utf-16"), ("CSV", "utf-8-sig"), ("tsv", "utf-8")])
def test_a_table_may_come_from_another_system(ending: str, encoding: str, tmp_path: Path) -> None:
    photo(tmp_path / "refs" / "ann.jpg")
    text = "image,reference,prompt,seed\nx.png,refs\\ann.jpg,a red\u2028hat,7.0\n"
    (tmp_path / f"p.{ending}").write_bytes(text.replace(",", "\t" if ending == "tsv" else ",").encode(encoding))
    (row,) = load_protocol(str(tmp_path / f"p.{ending}")).rows
    assert (row.prompt, row.seed, row.reference) == ("a red\u2028hat", 7, tmp_path / "refs" / "ann.jpg")


PROTOCOL = "name: x\npeople: 1\nseeds: [1]\nprompts:\n  hats: [a hat]\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: x", "name: " + "[" * 100_000, "is not a protocol"),
        ("people: 1", "people: .inf", "'inf' is not a whole number"),
        ("seeds: [1]", "seeds: [1.5]", "'1.5' is not a whole number"),
        ("[a hat]", "a hat", "not a list of texts"),
        ("[a hat]", "[[a, hat]]", "not a list of texts"),
    ],
)
def test_a_yaml_that_cannot_be_used_says_why(old: str, new: str, message: str, fifteen: Path, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=message):
        load_protocol(table(tmp_path / "p.yaml", PROTOCOL.replace(old, new)), fifteen)


def test_hidden_and_deleted_pictures_are_nobody(tmp_path: Path) -> None:
    for name in ("ann.jpg", "._ann.jpg", "__MACOSX/ann.jpg", ".ipynb_checkpoints/ben.jpg", "zoe/a.jpg", "zoe/._a.jpg"):
        photo(tmp_path / "faces" / name)
    path = table(tmp_path / "p.yaml", PROTOCOL.replace("people: 1", "people: 2"))
    people = load_protocol(path, tmp_path / "faces").people
    assert people == {"ann": [tmp_path / "faces" / "ann.jpg"], "zoe": [tmp_path / "faces" / "zoe" / "a.jpg"]}
    assert list_pictures(tmp_path / "faces") == [tmp_path / "faces" / name for name in ("ann.jpg", "zoe/a.jpg")]
