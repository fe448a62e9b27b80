"""The command that scores folders of images: real judges and real files, small."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from faceclip.face import Face
from train.evaluate.command import main
from train.evaluate.protocol import find_images, load_protocol
from train.evaluate.scoring import Candidate, Tools, score
from train.run.ranks import Ranks

SHAPE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
COLOURS = {"ann": (200, 30, 30), "bob": (30, 200, 30), "cem": (30, 30, 200)}


class ColourJudge:
    """Takes a picture's first pixel for its face, black for none: the person is the colour."""

    name = "insightface buffalo_l"
    same_person_above = 0.9

    def __init__(self) -> None:
        self.detector: Any = self

    def passes(self, image: np.ndarray):
        face = Face((0.0, 0.0, 8.0, 8.0), np.zeros((5, 2), np.float32), "arcface", 1.0)
        yield [face] if image[0, 0].any() else []

    detect = passes

    def embed(self, image: np.ndarray, face: Face) -> np.ndarray:
        colour = image[0, 0].astype(np.float32)
        return colour / np.linalg.norm(colour)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The options that name a small CLIP."""
    import open_clip

    folder = tmp_path_factory.mktemp("clip")
    shape, weights = folder / "faceclip-evaluate-tiny.json", folder / "tiny.pt"
    shape.write_text(json.dumps(SHAPE))
    open_clip.add_model_config(shape)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(open_clip.create_model(shape.stem).state_dict(), weights)
    return ["--clip-model", str(shape), "--clip-weights", str(weights)]


@pytest.fixture
def colour_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.evaluate.command.load_judge", lambda name, pack, device: ColourJudge())


def paint(path: Path, colour: tuple[int, int, int], seed: int) -> None:
    """A picture of one colour with some noise, its first pixels clean."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((32, 24, 3), colour, np.int64)
    pixels[8:] += np.random.default_rng(seed).integers(-20, 20, (24, 24, 3))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Three people, four prompts: folder `right` shows the right person, `wrong` the next one.

    One picture each has no face.
    """
    names = list(COLOURS)
    lines = ["image,identity,reference,prompt,seed"]
    for number, name in enumerate(names):
        paint(tmp_path / "refs" / f"{name}.png", COLOURS[name], 99)
        for prompt in range(4):
            lines.append(f"{name}/{prompt}.png,{name},refs/{name}.png,a person in place {prompt},0")
            missed = prompt == 3
            paint(tmp_path / "right" / name / f"{prompt}.png", (0, 0, 0) if missed else COLOURS[name], prompt)
            paint(tmp_path / "wrong" / name / f"{prompt}.png", (0, 0, 0) if missed else COLOURS[names[(number + 1) % 3]], prompt)
    (tmp_path / "colours.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def run(world: Path, *options: str, images: tuple[str, ...] = ("right",)) -> int:
    folders = [str(world / name) for name in images]
    return main(["--protocol", str(world / "colours.csv"), "--images", *folders, "--out", str(world / "out"), *options])


def results(world: Path) -> dict:
    return json.loads((world / "out" / "results.json").read_text())


def test_two_folders_side_by_side_with_everything(
    world: Path, clip: list[str], colour_judge: None, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*clip, "--judges", "insightface", "--conditioned-by", "insightface", "none", "--names", "A|1", "<B>"]
    options += ["--real", str(world / "refs"), "--fid-features", "clip", "--kid-subset", "3", "--pictures", "5"]
    assert run(world, *options, images=("right", "wrong")) == 0
    found = results(world)
    assert found["protocol"] == {"name": "colours", "rows": 12, "people": 3}
    right, wrong = found["folders"]

    face, other = right["face_similarity"][0], wrong["face_similarity"][0]
    between = np.dot(*(np.array(COLOURS[n]) / np.linalg.norm(COLOURS[n]) for n in ("ann", "bob")))
    assert face["similarity"]["mean"] == pytest.approx(1, abs=1e-6)
    assert face["others"]["mean"] == other["similarity"]["mean"] == pytest.approx(between, abs=1e-6)
    assert (face["identified"], other["identified"]) == (1, 0)
    assert (face["images"], face["with_face"], face["detection_rate"]) == (12, 9, 0.75)
    assert face["similarity"]["clusters"] == 3
    assert (face["note"], other["note"]) == ("conditioning model", None)
    change = wrong["difference_to_first"]["face insightface buffalo_l"]
    assert change["mean"] == pytest.approx(between - 1, abs=1e-6)
    assert right["difference_to_first"] == {}
    assert right["by_person"]["ann"]["face insightface buffalo_l"] == pytest.approx(1, abs=1e-6)
    assert right["means"]["CLIP-I"]["mean"] > wrong["means"]["CLIP-I"]["mean"]
    assert right["distribution"]["images"] == 3
    assert right["distribution"]["fid"] > 0

    table = (world / "out" / "table.md").read_text()
    assert "| A\\|1 | insightface | 12 | 1.000 [1.000, 1.000] (conditioning model) |" in table
    assert "FID, N = 3" in table
    assert "3 people are too few" in table
    assert "N is below 16" in table
    assert "cosines by faceclip-evaluate-tiny (tiny.pt)" in table
    assert (right["clip"], right["fid_features"]) == ("faceclip-evaluate-tiny (tiny.pt)",) * 2
    assert table in capsys.readouterr().out

    page = (world / "out" / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 15
    assert "&lt;B&gt;" in page
    assert "<B>" not in page
    assert "http" not in page, "self-contained"

    rows = list(csv.DictReader((world / "out" / "rows.csv").open()))
    assert len(rows) == 24
    assert rows[3]["face insightface buffalo_l"] == "", "no face is no number"
    assert float(rows[0]["face insightface buffalo_l"]) == pytest.approx(1)


def album(world: Path) -> Path:
    """Other photographs: ann's is 80 degrees from her reference, in one file beside the reference itself.

    Cem has none.
    """
    paint(world / "refs" / "ann.png", (250, 0, 0), 99)
    paint(world / "album" / "ann" / "1.png", (43, 246, 0), 1)
    paint(world / "album" / "ann" / "again.jpg.png", (250, 0, 0), 2)
    paint(world / "album" / "bob" / "no face.png", (0, 0, 0), 3)
    paint(world / "right" / "ann" / "0.png", (250, 0, 0), 0)
    paint(world / "right" / "ann" / "1.png", (192, 161, 0), 0)
    paint(world / "right" / "ann" / "2.png", (43, 246, 0), 0)
    return world / "album"


def test_copy_paste_beside_face_similarity(
    world: Path, colour_judge: None, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--judges", "insightface", "--other-photos", str(album(world))]
    assert run(world, *options) == 0
    (folder,) = results(world)["folders"]
    rows = list(csv.DictReader((world / "out" / "rows.csv").open()))
    found = [row["copy-paste insightface buffalo_l"] for row in rows]
    assert [float(value) for value in found[:3]] == pytest.approx([1, 0, -1], abs=0.01)
    assert found[3:] == [""] * 9, "no face, and no other photograph"
    other = float(np.dot((43, 246), (192, 161)) / np.linalg.norm((43, 246)) / np.linalg.norm((192, 161)))
    assert float(rows[1]["other photos insightface buffalo_l"]) == pytest.approx(other, abs=1e-4)
    assert folder["real_photos_alike"]["insightface buffalo_l"]["mean"] == pytest.approx(np.cos(np.radians(80)), abs=0.01)
    assert folder["means"]["copy-paste insightface buffalo_l"]["mean"] == pytest.approx(0, abs=0.01)
    assert "no face.png, which is left out" in caplog.text
    assert "1 is a copy, 0 neither" in (world / "out" / "table.md").read_text()

    assert run(world, "--judges", "insightface", "--other-photos", str(world / "refs")) == 1
    assert "no other photograph of any of the 3 people (ann, bob, cem)" in capsys.readouterr().err
    assert run(world, "--judges", "insightface", "--other-photos", str(world / "nowhere")) == 1
    assert "no folder of photographs" in capsys.readouterr().err


def scored(rank: int, world: int, folder: Path, table: Path) -> list[dict[str, np.ndarray]]:
    """One rank's rows of `right` and `wrong`."""
    protocol = load_protocol(str(table))
    candidates = [Candidate(name, folder / name) for name in ("right", "wrong")]
    images = [[path for path in find_images(protocol, candidate.folder) if path] for candidate in candidates]
    others = {"ann": sorted((folder / "album" / "ann").iterdir())}
    tools = Tools(faces=[ColourJudge()], other_photos=others, ranks=Ranks(rank, world, torch.device("cpu")))
    return [found.rows for found in score(protocol, candidates, images, tools)]


@pytest.mark.program
def test_ranks_share_the_pictures_and_agree(world: Path, run_ranks: Callable) -> None:
    album(world)
    alone = scored(0, 1, world, world / "colours.csv")
    for found in run_ranks(scored, 2, world, world / "colours.csv"):
        for rows, expected in zip(found, alone, strict=True):
            assert rows.keys() == expected.keys()
            for name, values in rows.items():
                np.testing.assert_array_equal(values, expected[name])


def test_several_processes_write_once_what_one_writes(world: Path, clip: list[str], launch: Callable) -> None:
    options = ["--protocol", str(world / "colours.csv"), "--images", str(world / "right"), *clip, "--judges", "--real"]
    options += [str(world / "refs"), "--fid-features", "clip", "--kid-subset", "3"]
    assert main([*options, "--out", str(world / "out")]) == 0
    command = launch("train.evaluate", [*options, "--out", str(world / "shared")], ranks=2)
    assert command.wait() == [0, 0], command.said()
    alone, shared = ((world / name / "results.json").read_text() for name in ("out", "shared"))
    one, two = json.loads(alone)["folders"][0], json.loads(shared)["folders"][0]
    assert two["means"]["CLIP-T"]["mean"] == pytest.approx(one["means"]["CLIP-T"]["mean"], abs=1e-6)
    assert two["means"]["CLIP-I"]["low"] == pytest.approx(one["means"]["CLIP-I"]["low"], abs=1e-6)
    assert two["distribution"]["fid"] == pytest.approx(one["distribution"]["fid"], abs=1e-5)
    assert command.said().count("Report: ") == 1

    lost = launch("train.evaluate", ["list", "--protocol", str(world / "colours.csv"), "--out", str(world / "o.csv")], ranks=2)
    assert lost.wait() == [1, 1]
    assert "`list` works in one process, found 2" in lost.said()
    assert not (world / "o.csv").exists()


def test_the_same_command_gives_the_same_numbers(world: Path, clip: list[str], colour_judge: None) -> None:
    found = []
    for _ in range(2):
        assert run(world, *clip, "--judges", "insightface") == 0
        found.append((world / "out" / "results.json").read_bytes())
    assert found[0] == found[1]


def test_identical_folders_are_at_distance_0(world: Path, clip: list[str]) -> None:
    options = ["--judges", "--real", str(world / "right"), "--fid-features", "clip", "--kid-subset", "6"]
    assert run(world, *clip, *options) == 0
    (folder,) = results(world)["folders"]
    assert folder["face_similarity"] == []
    assert folder["distribution"]["fid"] == pytest.approx(0, abs=1e-6)
    assert folder["distribution"]["images"] == 12
    assert "| 0.00 | " in (world / "out" / "table.md").read_text()


def test_real_judges_on_a_real_face(tmp_path: Path, astronaut: np.ndarray) -> None:
    from faceclip import FaceCLIPConfig, FaceCLIPEncoder

    torch.manual_seed(0)
    FaceCLIPEncoder(FaceCLIPConfig.preset("tiny")).save(tmp_path / "encoder.safetensors")
    portrait = Image.fromarray(astronaut[:320, 80:400])
    (tmp_path / "out").mkdir()
    portrait.save(tmp_path / "reference.png")
    portrait.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "out" / "1.jpg")
    (tmp_path / "p.csv").write_text("image,reference,prompt\n1.png,reference.png,an astronaut\n")
    command = ["--protocol", str(tmp_path / "p.csv"), "--images", str(tmp_path / "out"), "--out", str(tmp_path / "scores")]
    command += ["--judges", "dlib", "faceclip", "--encoder", str(tmp_path / "encoder.safetensors")]
    assert main([*command, "--conditioned-by", "faceclip"]) == 0
    dlib, own = json.loads((tmp_path / "scores" / "results.json").read_text())["folders"][0]["face_similarity"]
    assert dlib["judge"] == "dlib"
    assert dlib["similarity"]["mean"] > dlib["same_person_above"]
    assert dlib["similarity"]["low"] is None, "one person has no interval"
    assert not dlib["conditioned"]
    assert own["judge"] == "faceclip"
    assert own["conditioned"]
    assert "no interval: one person" in (tmp_path / "scores" / "table.md").read_text()


def test_a_missing_image_stops_unless_part_is_asked_for(
    world: Path, colour_judge: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (world / "wrong" / "ann" / "0.png").unlink()
    (world / "right" / "bob" / "1.png").unlink()
    assert run(world, "--judges", "insightface", images=("right", "wrong")) == 1
    error = capsys.readouterr().err
    assert "right lacks 1 of 12 images: bob/1.png" in error
    assert "wrong lacks 1 of 12 images: ann/0.png" in error
    assert run(world, "--judges", "insightface", "--partial", images=("right", "wrong")) == 0
    assert [folder["images"] for folder in results(world)["folders"]] == [10, 10]


def test_no_face_anywhere_and_no_face_in_a_reference(world: Path, colour_judge: None, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (world / "wrong").rglob("*.png"):
        paint(path, (0, 0, 0), 0)
    assert run(world, "--judges", "insightface", images=("wrong",)) == 1
    assert "found no face in any of the 12 images" in capsys.readouterr().err
    paint(world / "refs" / "bob.png", (0, 0, 0), 0)
    assert run(world, "--judges", "insightface") == 1
    assert "finds no face in the reference of bob: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--judges"], "Nothing was asked for"),
        (["--judges", "faceclip"], "name its file with --encoder"),
        (["--names", "a", "b"], "--names gives 2 for 1 folders"),
        (["--conditioned-by", "a", "b"], "--conditioned-by gives 2 for 1 folders"),
        (["--judges", "--real", "REFS", "--fid-features", "clip"], "name it with --clip-model"),
        (["--judges", "--real", "REFS", "--fid-features", "nothing"], "no features 'nothing'"),
        (["--judges", "--clip-model", "ViT-Z"], "no model 'ViT-Z'"),
    ],
)
def test_options_that_do_not_fit_are_explained(
    world: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(world, *(str(world / "refs") if option == "REFS" else option for option in options)) == 1
    assert message in capsys.readouterr().err


def test_too_few_images_for_fid_and_kid(world: Path, clip: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    options = [*clip, "--judges", "--real", str(world / "refs"), "--fid-features", "clip"]
    assert run(world, *options) == 1
    assert "3 and 3 images; at least 1000" in capsys.readouterr().err
    assert run(world, *options, "--fid-images", "5", "--kid-subset", "2") == 1
    assert "FID on 5 images of each side cannot be had" in capsys.readouterr().err
    assert run(world, *clip, "--judges", "--real", str(world / "nowhere"), "--fid-features", "clip") == 1
    assert "no folder of pictures" in capsys.readouterr().err


def test_two_folders_of_one_name_need_others(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(world, images=("right", "wrong/../right")) == 1
    assert "need names that differ, found right, right" in capsys.readouterr().err


def test_without_references_there_is_no_face_similarity(
    world: Path, colour_judge: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (world / "colours.csv").write_text("image,reference,prompt\nann/0.png,,a person\n")
    assert run(world, "--judges", "insightface") == 1
    assert "has no reference" in capsys.readouterr().err


def test_prompts_alone_are_scored_with_prompts_as_groups(world: Path, clip: list[str]) -> None:
    (world / "colours.csv").write_text("image,reference,prompt\nann/0.png,,a cat\nann/1.png,,a cat\nbob/0.png,,a dog\n")
    assert run(world, *clip, "--judges") == 0
    (folder,) = results(world)["folders"]
    assert list(folder["means"]) == ["CLIP-T"]
    assert folder["means"]["CLIP-T"]["clusters"] == 2
    assert "bootstrap over 2 prompts" in (world / "out" / "table.md").read_text()


def test_a_damaged_image_is_named(world: Path, colour_judge: None, capsys: pytest.CaptureFixture[str]) -> None:
    (world / "right" / "bob" / "2.png").write_bytes(b"")
    assert run(world, "--judges", "insightface") == 1
    assert "2.png is empty (0 bytes)" in capsys.readouterr().err
