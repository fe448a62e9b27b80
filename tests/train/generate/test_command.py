"""A protocol's pictures, by the shipped mini model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from train.generate.command import GenerateCommand, generate, main
from train.run.ranks import Ranks

ROOT = Path(__file__).parents[3]
MODELS = ROOT / "models"
ROWS = """image,identity,reference,prompt,seed
ada/1.png,ada,ada.jpg,a woman in the street,1
street/1.png,,,a street,2
ben/1.png,ben,ben.jpg,a man in the street,3
ada/2.webp,ada,ada.jpg,a woman in the street,1
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The list, the people's photos, and the mini UNet with its configuration beside it, as training writes both."""
    folder = tmp_path_factory.mktemp("todo")
    (folder / "todo.csv").write_text(ROWS)
    for name in ("ada.jpg", "ben.jpg"):
        shutil.copy(MODELS / "people" / name, folder)
    (folder / "unet").mkdir()
    shutil.copy(MODELS / "faceclip" / "faceclip_mini_unet.safetensors", folder / "unet" / "diffusion_pytorch_model.safetensors")
    shutil.copy(ROOT / "train" / "configs" / "mini_unet.json", folder / "unet" / "config.json")
    return folder


def command(world: Path, out: str, **changes: object) -> GenerateCommand:
    settings = {
        "protocol": str(world / "todo.csv"),
        "encoder": MODELS / "faceclip" / "faceclip_mini_encoder.safetensors",
        "unet": world / "unet" / "diffusion_pytorch_model.safetensors",
        "vae": MODELS / "vae" / "zz_faceclip_mini_vae.safetensors",
        "out": world / out,
        "width": 64,
        "height": 64,
        "steps": 2,
        "detector": "yunet",
        **changes,
    }
    return GenerateCommand(**settings)  # pyright: ignore[reportArgumentType]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def on_rank(rank: int, world: int, work: GenerateCommand) -> None:
    generate(work, Ranks(rank, world, torch.device("cpu")))


@pytest.mark.program
def test_every_row_becomes_its_picture_whatever_the_batch_and_the_rank(world: Path, run_ranks: Callable) -> None:
    generate(command(world, "one", batch_size=1), Ranks(0, 1, torch.device("cpu")))
    run_ranks(on_rank, 2, command(world, "two", batch_size=2))
    for name in ("ada/1.png", "street/1.png", "ben/1.png", "ada/2.webp"):
        first, second = pixels(world / "one" / name), pixels(world / "two" / name)
        assert first.shape == (64, 64, 3)
        assert np.abs(first - second).mean() < 2, name
    assert np.abs(pixels(world / "one" / "ada/1.png") - pixels(world / "one" / "ben/1.png")).mean() > 4
    assert not list((world / "two").rglob("*.partial*"))

    kept = (world / "one" / "ada" / "1.png").stat().st_mtime_ns
    (world / "one" / "ben" / "1.png").unlink()
    generate(command(world, "one"), Ranks(0, 1, torch.device("cpu")))
    assert (world / "one" / "ben" / "1.png").is_file()
    assert (world / "one" / "ada" / "1.png").stat().st_mtime_ns == kept, "what is there is not made again"


def test_what_cannot_be_made_is_explained(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(rows: str, *options: str) -> str:
        (tmp_path / "todo.csv").write_text("image,reference,prompt\n" + rows)
        models = ["--encoder", str(command(world, "x").encoder), "--unet", str(command(world, "x").unet), "--vae", "nowhere"]
        assert main([str(tmp_path / "todo.csv"), *models, "--out", str(tmp_path / "out"), *options]) == 1
        return capsys.readouterr().err

    assert "'../a.png' cannot be written" in refused("../a.png,,a street\n")
    assert "'a' cannot be written" in refused("a,,a street\n")
    assert "'a.jpgg' cannot be written" in refused("a.jpgg,,a street\n")
    assert "--batch-size is 1 or more" in refused("a.png,,a street\n", "--batch-size", "0")
    assert "There is no file nowhere" in refused("a.png,,a street\n")
