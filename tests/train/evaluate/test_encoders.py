"""Zero-shot classification and the identity map of an encoder, through the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from faceclip import FaceCLIPConfig, FaceCLIPEncoder
from faceclip.face import Face
from faceclip.tensor_file import write_safetensors
from train.data.decode import clip_crop
from train.evaluate.command import main
from train.evaluate.encoders import load_pretrained
from train.frozen.teacher import load_teacher
from train.pretrain.model import PretrainModel, black_face_texts


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pretraining leaves behind, untrained: encoder.safetensors and heads.safetensors."""
    folder = tmp_path_factory.mktemp("run")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = PretrainModel(FaceCLIPEncoder(FaceCLIPConfig.preset("mini").only("l")))
    model.encoder.save(folder / "encoder.safetensors")
    heads = {f"heads.{name}": tensor for name, tensor in model.heads.state_dict().items()}
    write_safetensors(folder / "heads.safetensors", {**heads, "loss.scale": torch.ones(1)}, {"format": "faceclip_training_heads"})
    return folder


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """Two classes, of three pictures and of one."""
    for name, number in (("red_fox", 3), ("grey_owl", 1)):
        for i in range(number):
            path = tmp_path / "animals" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    return tmp_path / "animals"


@pytest.fixture
def three_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of 80, which take a while."""
    from faceclip.metrics.zero_shot import imagenet_templates

    few = imagenet_templates()[:3]
    monkeypatch.setattr("faceclip.metrics.zero_shot.imagenet_templates", lambda: few)


def zero_shot(run: Path, animals: Path, *options: str) -> int:
    command = ["zero-shot", "--encoder", str(run / "encoder.safetensors"), "--heads", str(run / "heads.safetensors")]
    return main([*command, "--images", str(animals), "--teacher", "mini", "--out", str(run / "zero_shot.json"), *options])


def test_texts_go_through_the_encoder_with_a_black_face_and_no_prefix(run: Path) -> None:
    model = load_pretrained(run / "encoder.safetensors", run / "heads.safetensors")
    texts = [f"a photo of a (thing) {i}" for i in range(40)]
    found = black_face_texts(model, texts)
    black = model.encoder.encode_faces(torch.zeros(1, 3, 448, 448))
    fused = model.encoder.encode([r"a photo of a \(thing\) 39"], black).embeddings
    assert torch.allclose(found[39], model.heads(fused)[0][0], atol=1e-5)


def test_the_command_finds_the_class_that_the_embeddings_are_nearest_to(
    run: Path, animals: Path, three_sentences: None, capsys: pytest.CaptureFixture[str]
) -> None:
    from faceclip.metrics import class_embeddings

    assert zero_shot(run, animals) == 0
    assert "4 pictures, 2 classes" in capsys.readouterr().out
    found = json.loads((run / "zero_shot.json").read_text())
    model = load_pretrained(run / "encoder.safetensors", run / "heads.safetensors")
    classes = class_embeddings(lambda texts: black_face_texts(model, texts), ["grey owl", "red fox"])
    teacher = load_teacher("mini", "", 32)
    paths = sorted(animals.rglob("*.png"))
    views = np.stack([clip_crop(Image.open(path), teacher.size) for path in paths])
    guesses = (teacher(torch.from_numpy(views)) @ classes.T).argmax(1).tolist()
    assert found["top1"] == pytest.approx(
        np.mean([guess == (path.parent.name == "red_fox") for guess, path in zip(guesses, paths, strict=True)])
    )
    assert (found["images"], found["classes"], found["top5"]) == (4, 2, 1)


def test_classes_are_called_what_the_user_says(
    run: Path, animals: Path, three_sentences: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("owl\nfox\n")
    assert zero_shot(run, animals, "--class-names", str(names)) == 0
    names.write_text("owl\n")
    assert zero_shot(run, animals, "--class-names", str(names)) == 1
    assert "names 1 classes, the folders are 2" in capsys.readouterr().err
    assert zero_shot(run, animals, "--class-names", "imagenet") == 1
    assert "imagenet names 1000 classes" in capsys.readouterr().err


def test_files_that_do_not_belong_together_are_refused(
    run: Path, animals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "encoder.safetensors").write_bytes((run / "encoder.safetensors").read_bytes())
    write_safetensors(other / "heads.safetensors", {"heads.text.weight": torch.zeros(2, 2)}, {})
    assert zero_shot(other, animals) == 1
    assert "is not the heads.safetensors of the run that made" in capsys.readouterr().err
    FaceCLIPEncoder(FaceCLIPConfig.preset("mini")).save(other / "encoder.safetensors")
    assert zero_shot(other, animals) == 1
    assert "has 2 branches" in capsys.readouterr().err
    (tmp_path / "animals" / "empty").mkdir()
    assert zero_shot(run, animals) == 1
    assert "found 3, without a picture: empty" in capsys.readouterr().err
    assert zero_shot(run, tmp_path / "nowhere") == 1
    assert "no folder at" in capsys.readouterr().err


class WholePicture:
    """Takes every picture that is not black for one face."""

    name, tried = "whole", "looked at all of it"

    def detect(self, image: np.ndarray) -> list[Face]:
        return next(self.passes(image))

    def passes(self, image: np.ndarray):
        side = float(len(image))
        points = np.array([(0.34, 0.46), (0.66, 0.46), (0.5, 0.64), (0.37, 0.82), (0.63, 0.82)], np.float32) * side
        yield [Face((0.0, 0.0, side, side), points, "arcface", 1.0)] if image.any() else []


def test_the_map_groups_pictures_that_are_alike(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("train.evaluate.encoders.load_detector", lambda backend: WholePicture())
    random = np.random.default_rng(0)
    for person in ("ann", "bob", "cem"):
        pattern = random.integers(0, 200, (6, 6, 3))
        for number in range(4):
            pixels = np.kron(pattern, np.ones((20, 20, 1))) + random.integers(0, 20, (120, 120, 3))
            path = tmp_path / "people" / person / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    Image.new("RGB", (64, 64)).save(tmp_path / "people" / "ann" / "black.png")
    command = ["map", "--encoder", str(run / "encoder.safetensors"), "--people", str(tmp_path / "people")]
    command += ["--out", str(tmp_path / "map"), "--neighbours", "3"]
    assert main([*command, "--prompts", "a person"]) == 0
    found = json.loads((tmp_path / "map" / "identity_map.json").read_text())
    assert (found["rows"], found["people"]) == (12, 3)
    assert found["purity"] == 1, "one text, faces that differ by person"
    assert "black.png shows no face" in caplog.text
    assert "purity 1.00 (chance 0.27)" in capsys.readouterr().out
    assert Image.open(tmp_path / "map" / "identity_map.png").width > 500

    assert main([*command[:-1], "9"]) == 1
    assert "for 9 neighbours each person needs 10" in capsys.readouterr().err
    for path in (tmp_path / "people").rglob("*.png"):
        Image.new("RGB", (64, 64)).save(path)
    assert main(command) == 1
    assert "No face was found in any photo" in capsys.readouterr().err


def test_a_map_needs_people_and_a_prompt(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["map", "--encoder", str(run / "encoder.safetensors"), "--people", str(tmp_path), "--detector", "dlib"]
    assert main(command) == 1
    assert "one folder of pictures for each person, two or more; found 0" in capsys.readouterr().err
    assert main([*command, "--prompts"]) == 1
    assert "A prompt is needed" in capsys.readouterr().err
