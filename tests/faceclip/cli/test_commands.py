"""The command line, run for real: `main([...])` on real files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from faceclip import FaceCLIPEncoder
from faceclip.cli import main
from faceclip.face import detect_faces, load_detector, load_photo
from faceclip.face.align import TEMPLATES
from faceclip.pipeline import FaceCLIPPipeline
from faceclip.tensor_file import open_tensor_file

PROMPT = "a portrait in a garden"
SMALL = ["--width", "64", "--height", "96", "--steps", "2", "--device", "cpu"]


@pytest.fixture(scope="session")
def photo(astronaut: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "astronaut.png"
    Image.fromarray(astronaut).save(path)
    return path


@pytest.fixture(scope="session")
def crop(photo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crops")
    assert main(["detect", str(photo), "--out-dir", str(folder), "--backend", "dlib"]) == 0
    return folder / "astronaut_face_0.png"


@pytest.fixture(scope="session")
def released(sdxl_files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder as it is released: a torch file, `model.` before every name, the face tower twice, fp32."""
    encoder = FaceCLIPEncoder.from_file(sdxl_files.encoder)
    path = tmp_path_factory.mktemp("released") / "face_clip_encoder.pt"
    torch.save({f"model.{name}": tensor.clone() for name, tensor in encoder.state_dict().items()}, path)
    return path


@pytest.fixture
def model_options(sdxl_files) -> list[str]:
    return ["--encoder", str(sdxl_files.encoder), "--unet", str(sdxl_files.unet), "--base", str(sdxl_files.base)]


def error_of(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """Run a command that must fail: exit code 2, one line on stderr, no traceback. Returns the line."""
    capsys.readouterr()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("faceclip: error: ") and error.count("\n") == 1, error
    return error


def usage_error_of(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    with pytest.raises(SystemExit) as exit_code:
        main(arguments)
    assert exit_code.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


class TestConvert:
    def test_the_released_file_becomes_a_smaller_one_of_the_same_encoder(self, released, tmp_path, capsys):
        target = tmp_path / "encoder.safetensors"
        assert main(["convert", str(released), str(target), "--dtype", "bf16"]) == 0
        output = capsys.readouterr()
        count = len(open_tensor_file(target).entries)
        assert f"in bf16, from {released.stat().st_size / 1e6:.1f} MB. {count} tensors, one face tower, shared" in output.out
        assert f"{2 * count}/{2 * count}" in output.err, "the progress bar ends at its total"
        original, converted = FaceCLIPEncoder.from_file(released), FaceCLIPEncoder.from_file(target)
        state = converted.state_dict()
        for name, tensor in original.state_dict().items():
            expected = tensor.bfloat16().float() if tensor.is_floating_point() else tensor
            assert torch.equal(state[name], expected), name
        assert target.stat().st_size < 0.55 * released.stat().st_size

    def test_differing_face_towers_are_both_kept_and_said_to_be(self, released, tmp_path, capsys):
        values = torch.load(released, weights_only=True)
        values["model.face_clip_g.face_encoder.pos_embed"] += 1
        torch.save(values, tmp_path / "two.pt")
        assert main(["convert", str(tmp_path / "two.pt"), str(tmp_path / "two.safetensors"), "--dtype", "fp32"]) == 0
        assert f"in fp32, from {(tmp_path / 'two.pt').stat().st_size / 1e6:.1f} MB" in (text := capsys.readouterr().out)
        assert "a face tower per branch: they differ" in text
        assert open_tensor_file(tmp_path / "two.safetensors").entries.keys() == {n.removeprefix("model.") for n in values}

    def test_wrong_files_are_named_for_what_they_are(self, sdxl_files, photo, tmp_path, capsys):
        target = tmp_path / "out.safetensors"
        empty, cut = tmp_path / "empty.pt", tmp_path / "cut.safetensors"
        empty.touch()
        cut.write_bytes(sdxl_files.encoder.read_bytes()[:-1000])
        expected = {
            sdxl_files.unet: "is not a FaceCLIP encoder: it looks like this: SDXL UNet. Load it with Load FaceCLIP UNet.",
            empty: "is empty (0 bytes)",
            cut: "is incomplete",
            photo: "is neither a safetensors file nor a torch file",
            tmp_path
            / "face_clip_encoder.pt": "https://huggingface.co/ByteDance/FaceCLIP/resolve/main/model/face_clip_encoder.pt",
            tmp_path / "mine.pt": "There is no file",
        }
        for source, message in expected.items():
            assert message in error_of(capsys, ["convert", str(source), str(target)])
            assert not target.exists()

    def test_a_file_is_not_converted_onto_itself(self, sdxl_files, capsys):
        before = sdxl_files.encoder.read_bytes()
        assert "is the file to convert itself" in error_of(capsys, ["convert", str(sdxl_files.encoder), str(sdxl_files.encoder)])
        assert sdxl_files.encoder.read_bytes() == before

    def test_only_safetensors_are_written(self, released, tmp_path, capsys):
        error = usage_error_of(capsys, ["convert", str(released), str(tmp_path / "out.pt")])
        assert "out.pt must end in .safetensors" in error


class TestDetect:
    def test_it_writes_an_aligned_crop_and_a_numbered_preview(self, photo, tmp_path, capsys):
        assert main(["detect", str(photo), "--out-dir", str(tmp_path / "new" / "folder"), "--backend", "dlib"]) == 0
        output = capsys.readouterr().out.splitlines()
        files = {path.name: Image.open(path) for path in (tmp_path / "new" / "folder").iterdir()}
        assert {name: image.size for name, image in files.items()} == {
            "astronaut_face_0.png": (448, 448),
            "astronaut_faces.jpg": (512, 512),
        }
        assert re.fullmatch(r".*astronaut_face_0\.png: \d+ px in the photo, confidence 0\.\d\d(; .*)?", output[0])
        assert output[1].endswith("astronaut_faces.jpg: 1 face, numbered largest")
        changed = np.abs(np.asarray(files["astronaut_faces.jpg"], dtype=int) - load_photo(photo)) > 60
        assert 0 < changed.any(axis=2).mean() < 0.2, "a box and a number are drawn, no more"

    def test_the_crop_shows_the_face_where_the_template_wants_it(self, crop):
        face = detect_faces(load_detector("dlib"), load_photo(crop))[0]
        assert np.linalg.norm(face.landmarks - TEMPLATES["dlib"], axis=1).mean() < 10, "px of 448"

    def test_two_faces_are_numbered_in_the_order_asked_for(self, astronaut, tmp_path, capsys):
        large, small = Image.fromarray(astronaut), Image.fromarray(astronaut).resize((360, 360))
        both = Image.new("RGB", (900, 512))
        both.paste(small, (0, 0))
        both.paste(large, (380, 0))
        both.save(tmp_path / "both.png")
        sizes = {}
        for order in ("largest", "left-to-right"):
            assert (
                main(["detect", str(tmp_path / "both.png"), "--out-dir", str(tmp_path), "--order", order, "--backend", "dlib"])
                == 0
            )
            output = capsys.readouterr().out
            sizes[order] = [int(size) for size in re.findall(r": (\d+) px", output)]
            assert f"2 faces, numbered {order.replace('-', ' ')}" in output
        assert sizes["largest"] == sizes["left-to-right"][::-1]
        assert sizes["largest"][0] > sizes["largest"][1]

    @pytest.mark.usefixtures("no_last_resort")
    def test_a_photo_without_a_face_says_so(self, tmp_path, capsys):
        Image.new("RGB", (320, 200), "grey").save(tmp_path / "grey.png")
        error = error_of(capsys, ["detect", str(tmp_path / "grey.png"), "--out-dir", str(tmp_path / "out"), "--backend", "dlib"])
        assert "No face was found in" in error and "grey.png (320 x 200)" in error and "larger, sharper photo" in error
        assert not (tmp_path / "out").exists()

    def test_what_is_no_picture_says_so(self, sdxl_files, tmp_path, capsys):
        assert "There is no image file at" in error_of(capsys, ["detect", str(tmp_path / "absent.jpg")])
        assert "is not an image that Pillow can read" in error_of(capsys, ["detect", str(sdxl_files.unet)])

    def test_a_folder_that_cannot_be_made_says_so(self, photo, tmp_path, capsys):
        (tmp_path / "file").touch()
        error = error_of(capsys, ["detect", str(photo), "--out-dir", str(tmp_path / "file" / "sub"), "--backend", "dlib"])
        assert "Not a directory" in error and "sub" in error


class TestEncode:
    def run(self, sdxl_files, target: Path, *options: str) -> dict[str, torch.Tensor]:
        arguments = ["encode", "--encoder", str(sdxl_files.encoder), "--out", str(target), "--device", "cpu", *options]
        assert main(arguments) == 0
        return {name: entry.read() for name, entry in open_tensor_file(target).entries.items()}

    def test_it_writes_what_the_encoder_gives_for_the_crop(self, sdxl_files, crop, tmp_path, capsys):
        target = tmp_path / "cond.safetensors"
        written = self.run(sdxl_files, target, "--prompt", PROMPT, "--face", str(crop), "--aligned")
        assert "embeddings [1, 77, 80], pooled [1, 48]" in capsys.readouterr().out
        encoder = FaceCLIPEncoder.from_file(sdxl_files.encoder)
        face = torch.from_numpy(load_photo(crop)).permute(2, 0, 1)[None] / 255
        expected = encoder.encode([PROMPT], encoder.encode_faces(face))
        assert torch.equal(written["embeddings"], expected.embeddings)
        assert torch.equal(written["pooled"], expected.pooled)
        metadata = open_tensor_file(target).metadata
        assert json.loads(metadata["prompts"]) == [PROMPT] and metadata["face"] == "true"

    def test_a_photo_gives_what_its_crop_gives(self, sdxl_files, photo, crop, tmp_path):
        options = ["--prompt", PROMPT, "--face"]
        from_crop = self.run(sdxl_files, tmp_path / "crop.safetensors", *options, str(crop), "--aligned")["embeddings"]
        from_photo = self.run(sdxl_files, tmp_path / "photo.safetensors", *options, str(photo), "--backend", "dlib")["embeddings"]
        text_only = self.run(sdxl_files, tmp_path / "text.safetensors", "--prompt", PROMPT)["embeddings"]
        # The crop's file has 8 bits a channel; that is all that differs.
        assert (from_photo - from_crop).norm() < 0.02 * (from_crop - text_only).norm()

    def test_strength_zero_is_text_alone(self, sdxl_files, crop, tmp_path):
        options = ["--prompt", PROMPT, "--prompt", "a man on a beach"]
        text_only = self.run(sdxl_files, tmp_path / "text.safetensors", *options)
        zero = self.run(sdxl_files, tmp_path / "zero.safetensors", *options, "--face", str(crop), "--aligned", "--strength", "0")
        assert text_only["embeddings"].shape == (2, 77, 80)
        assert torch.equal(zero["embeddings"], text_only["embeddings"])

    def test_long_prompts_are_cut_with_a_warning_or_chunked(self, sdxl_files, tmp_path, caplog):
        long = "word " * 100
        cut = self.run(sdxl_files, tmp_path / "cut.safetensors", "--prompt", long)
        assert cut["embeddings"].shape == (1, 77, 80)
        assert "The prompt is too long" in caplog.text
        chunked = self.run(sdxl_files, tmp_path / "chunk.safetensors", "--prompt", long, "--long-prompts", "chunk")
        assert chunked["embeddings"].shape == (1, 154, 80)

    def test_a_crop_of_another_size_is_refused(self, sdxl_files, photo, tmp_path, capsys):
        arguments = ["encode", "--encoder", str(sdxl_files.encoder), "--out", str(tmp_path / "c.safetensors"), "--prompt", PROMPT]
        error = error_of(capsys, [*arguments, "--face", str(photo), "--aligned"])
        assert "is 512 x 512, but an aligned crop is 448 x 448. Leave out --aligned" in error

    @pytest.mark.usefixtures("no_last_resort")
    def test_a_face_number_that_is_not_there_is_refused(self, sdxl_files, photo, tmp_path, capsys):
        arguments = ["encode", "--encoder", str(sdxl_files.encoder), "--out", str(tmp_path / "c.safetensors"), "--prompt", PROMPT]
        for index in ("3", "-1"):
            error = error_of(capsys, [*arguments, "--face", str(photo), "--index", index, "--backend", "dlib"])
            assert f"shows 1 face, so there is no face number {index}" in error


class TestGenerate:
    def test_a_photo_and_a_prompt_become_a_picture(self, sdxl_files, photo, model_options, tmp_path, capsys):
        target = tmp_path / "new" / "out.png"
        arguments = [
            "generate",
            "--face",
            str(photo),
            "--prompt",
            PROMPT,
            "--out",
            str(target),
            "--seed",
            "4",
            "--backend",
            "dlib",
        ]
        assert main([*arguments, *model_options, *SMALL]) == 0
        assert "64 x 96, seed 4, 2 steps, CFG 5, strength 1" in capsys.readouterr().out
        picture = np.asarray(Image.open(target))
        assert picture.shape == (96, 64, 3) and picture.std() > 5
        assert main([*arguments, *model_options, *SMALL]) == 0
        assert np.array_equal(np.asarray(Image.open(target)), picture), "the same command makes the same picture"

    def test_every_setting_reaches_the_pipeline(self, sdxl_files, crop, model_options, tmp_path):
        settings = ["--cfg", "3", "--strength", "0.5", "--negative", "trees", "--seed", "9", "--dtype", "fp32"]
        arguments = ["generate", "--face", str(crop), "--aligned", "--prompt", PROMPT, "--out", str(tmp_path / "out.png")]
        assert main([*arguments, *settings, *model_options, *SMALL]) == 0
        pipeline = FaceCLIPPipeline.from_files(sdxl_files.encoder, sdxl_files.unet, sdxl_files.base, device="cpu")
        face = torch.from_numpy(load_photo(crop)).permute(2, 0, 1) / 255
        sizes = {"width": 64, "height": 96, "steps": 2}
        expected = pipeline(PROMPT, face, negative_prompt="trees", guidance=3, strength=0.5, seed=9, **sizes)[0]
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), np.asarray(expected))

    def test_without_a_face_and_a_seed_it_prints_the_seed_that_makes_the_picture_again(self, model_options, tmp_path, capsys):
        arguments = ["generate", "--prompt", PROMPT, *model_options, *SMALL, "--out"]
        assert main([*arguments, str(tmp_path / "first.png")]) == 0
        seed = re.search(r"seed (\d+)", capsys.readouterr().out)[1]
        assert main([*arguments, str(tmp_path / "again.png"), "--seed", seed]) == 0
        assert (tmp_path / "first.png").read_bytes() == (tmp_path / "again.png").read_bytes()

    def test_missing_and_wrong_files_are_named(self, sdxl_files, tmp_path, capsys):
        def error(encoder, unet, base) -> str:
            models = ["--encoder", str(encoder), "--unet", str(unet), "--base", str(base)]
            return error_of(capsys, ["generate", "--prompt", PROMPT, "--out", str(tmp_path / "out.png"), *models, *SMALL])

        assert "resolve/main/model/unet.pt" in error(sdxl_files.encoder, tmp_path / "unet.pt", sdxl_files.base)
        assert "it looks like this: SDXL UNet" in error(sdxl_files.unet, sdxl_files.unet, sdxl_files.base)
        assert "it lacks unet/config.json" in error(sdxl_files.encoder, sdxl_files.unet, tmp_path)
        assert "must be a folder in diffusers' layout" in error(sdxl_files.encoder, sdxl_files.unet, sdxl_files.unet)

    def test_a_face_that_cannot_be_found_stops_before_any_model_is_loaded(self, tmp_path, capsys):
        Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
        models = ["--encoder", "absent.pt", "--unet", "absent.pt"]
        arguments = ["generate", "--face", str(tmp_path / "dot.png"), "--prompt", PROMPT, "--out", "out.png", *models]
        assert "dot.png (1 x 1)" in error_of(capsys, [*arguments, "--backend", "dlib"])

    @pytest.mark.parametrize(
        ("option", "value", "message"),
        [
            ("--width", "100", "must be a multiple of 8 pixels, found 100"),
            ("--steps", "0", "must be at least 1, found 0"),
            ("--seed", "-1", "must be from 0 to 2^63 - 1, found -1"),
            ("--strength", "nan", "must be 0 or more, found nan"),
            ("--out", "picture.docx", "must end in .png, .jpg, .webp or another format of colour pictures"),
            ("--out", "picture.psd", "picture.psd must end in .png, .jpg, .webp"),  # which Pillow reads only
            ("--out", "picture.xbm", "picture.xbm must end in .png, .jpg, .webp"),  # which has no colours
            ("--out", ".", ". is a folder; name the file to write"),
            ("--out", "x" * 252 + ".png", "is too long: a file's name has 255 bytes at most"),
            ("--device", "toaster", "torch cannot use 'toaster' here"),
            ("--order", "tallest", "invalid choice: 'tallest'"),
        ],
    )
    def test_bad_values_are_refused_before_anything_is_loaded(self, capsys, option, value, message):
        arguments = ["generate", "--prompt", PROMPT, "--out", "o.png", "--encoder", "e", "--unet", "u", option, value]
        assert message in usage_error_of(capsys, arguments)


class TestSimilarity:
    @pytest.mark.usefixtures("no_last_resort")
    def test_the_same_person_scores_high_and_pictures_are_ranked(self, photo, crop, tmp_path, capsys):
        Image.new("RGB", (200, 200), "grey").save(tmp_path / "nobody.png")
        assert main(["similarity", str(photo), str(tmp_path / "nobody.png"), str(crop), str(photo)]) == 0
        first, second, third, legend = capsys.readouterr().out.splitlines()
        assert first.startswith(" 1.0000") and f"{photo}: likely the same person" in first
        assert float(second.split()[0]) > 0.95 and str(crop) in second
        assert "nobody.png: no face" in third
        assert "Cosine by dlib" in legend

    @pytest.mark.usefixtures("no_last_resort")
    def test_a_reference_without_a_face_is_named(self, photo, tmp_path, capsys):
        Image.new("RGB", (200, 200), "grey").save(tmp_path / "nobody.png")
        assert "nobody.png (200 x 200)" in error_of(capsys, ["similarity", str(tmp_path / "nobody.png"), str(photo)])

    def test_a_missing_insightface_pack_says_how_to_get_it(self, photo, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv("HOME", str(tmp_path))
        error = error_of(capsys, ["similarity", str(photo), str(photo), "--judge", "insightface"])
        assert "pip install" in error or "Download https://github.com/deepinsight/insightface" in error


def test_an_error_nobody_expected_keeps_its_traceback(photo, monkeypatch):
    def broken(*args):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("faceclip.cli.commands.detect_faces", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        main(["detect", str(photo)])


def test_it_runs_as_a_module_and_a_failure_is_the_exit_code(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "faceclip", "detect", str(tmp_path / "absent.png")], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("faceclip: error: There is no image file at") and "Traceback" not in done.stderr


def test_without_a_command_the_usage_is_shown(capsys):
    assert "required: command" in usage_error_of(capsys, [])
