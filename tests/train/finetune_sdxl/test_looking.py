"""A run that looks at what it learns: at people it is never trained on, with numbers that mean what they
say, and without a bit of it changed."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

from faceclip.face import DetectorUnavailableError
from train.cache import command as cache
from train.data.shards import ShardSource
from train.export import main as export
from train.finetune_sdxl import looking
from train.finetune_sdxl.command import build, main
from train.finetune_sdxl.config import FinetuneConfig
from train.finetune_sdxl.held_out import TIMESTEPS, held_out_by_person, is_held_out
from train.finetune_sdxl.rows import Draws, Rows
from train.finetune_sdxl.task import FinetuneTask
from train.run.command_line import parse
from train.run.config import ConfigError
from train.run.flops import forward_and_backward
from train.run.ranks import Ranks

ONE = Ranks(0, 1, torch.device("cpu"))
Arguments = Callable[..., list[str]]
FILE = "diffusion_pytorch_model.safetensors"
SMALL = {
    "resolution": 64,
    "held_out_rows": 3,
    "look_people": 2,
    "look_prompts": ("a portrait", "a drawing"),
    "look_steps": 2,
    "look_judge": "none",
}


@pytest.fixture
def arguments(finetune_command: Arguments, shards: Path, tmp_path: Path) -> Arguments:
    """`arguments(out="run", ...)` -> the command line of a run that looks, unless its held-out shards are None."""
    return lambda out="run", **options: finetune_command(tmp_path / out, **{"held_out": shards, **SMALL, **options})


@pytest.fixture
def make(arguments: Arguments) -> Callable[..., FinetuneTask]:
    return lambda **options: build(parse(FinetuneConfig, arguments(**{"steps": 2, **options})), ONE)


def weights(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {name: load_file(run / name / FILE) for name in ("unet", "unet_last")}


def same(first: Path, second: Path) -> bool:
    ours, theirs = weights(first), weights(second)
    return all(torch.equal(ours[kind][name], tensor) for kind, tensors in theirs.items() for name, tensor in tensors.items())


def looked(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in log if line["kind"] == "evaluate"]


def test_a_run_has_the_same_bits_with_and_without_looks_and_after_a_resumption_among_them(
    arguments: Arguments, tmp_path: Path, read_log: Callable
) -> None:
    options = {"steps": 3, "dtype": "bf16", "ema": 0.9, "save_every": 1}
    assert main(arguments("blind", held_out=None, **options)) == 0
    assert main(arguments("seeing", look_every=1, **options)) == 0
    shutil.copytree(tmp_path / "seeing/checkpoints/step-00000002", tmp_path / "resumed/checkpoints/step-00000002")
    assert main(arguments("resumed", look_every=1, **options)) == 0
    for run in ("seeing", "resumed"):
        assert same(tmp_path / run, tmp_path / "blind")
    lines = looked(read_log(tmp_path / "seeing"))
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    again = looked(read_log(tmp_path / "resumed"))
    assert [line["step"] for line in again] == [3] and again[0]["held_out_loss"] == lines[-1]["held_out_loss"]
    assert all(line["seconds"] > 0 and 0 < line["share_of_time"] < 1 for line in lines)
    grids = sorted((tmp_path / "seeing/looks").iterdir())
    assert [path.name for path in grids] == [f"step-0000000{step}.png" for step in range(4)]


def test_two_ranks_share_a_look_and_train_and_export_as_they_would_without(
    arguments: Arguments, make: Callable[..., FinetuneTask], launch: Callable, tmp_path: Path, read_log: Callable
) -> None:
    options = {"steps": 2, "ema": 0.9}
    for out, seen in (("blind", {"held_out": None}), ("seeing", {"look_every": 1})):
        command = launch("train.finetune_sdxl", arguments(out, **options, **seen), ranks=2)
        assert command.wait(300) == [0, 0], command.said()
    assert same(tmp_path / "seeing", tmp_path / "blind")
    assert export([str(tmp_path / "seeing"), str(tmp_path / "made")]) == 0
    assert (tmp_path / "made" / FILE).read_bytes() == (tmp_path / "seeing/unet" / FILE).read_bytes()
    alone = make(out="alone", **options).evaluate_start()
    first = looked(read_log(tmp_path / "seeing"))[0]
    assert {name: first[name] for name in alone if name != "grid"} == {name: alone[name] for name in alone if name != "grid"}
    ours, theirs = (np.array(Image.open(path)).astype(int) for path in (first["grid"], alone["grid"]))
    assert np.abs(ours - theirs).max() <= 2  # a batch of another size rounds differently


def test_a_look_draws_none_of_the_random_numbers_that_others_draw(make: Callable[..., FinetuneTask]) -> None:
    task = make()

    def states() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()

    before = states()
    task.evaluate_start()
    assert states() == before and task.unet.training


def test_the_grid_shows_the_same_people_and_noise_every_time_and_other_weights_differently(
    make: Callable[..., FinetuneTask],
) -> None:
    task = make()

    def grid() -> np.ndarray:
        return np.array(Image.open(task.evaluate_start()["grid"])).astype(int)

    first = grid()
    assert first.shape == (64 + 2 * 328, 3 * 328 + 8, 3)
    assert np.array_equal(grid(), first)
    assert task.average
    task.average.shadow["conv_in.weight"] += 0.05  # the grid is made by the average
    changed = grid() != first
    assert not changed[:, :328].any() and changed[64:, 336:].any(axis=2).mean() > 0.5


def test_the_held_out_loss_is_the_runs_own_of_that_row_timestep_and_noise(make: Callable[..., FinetuneTask]) -> None:
    task = make(held_out_rows=1)
    assert task.look and task.average
    found = task.evaluate_start()
    assert set(found) == {"held_out_loss", *(f"held_out_loss_t{each}" for each in TIMESTEPS), "grid"}
    assert found["held_out_loss"] == pytest.approx(np.mean([found[f"held_out_loss_t{each}"] for each in TIMESTEPS]))
    rows: Rows = task._reader.without_pictures([0])  # pyright: ignore[reportAttributeAccessIssue]
    picture, time_ids = task.latents.read(0, ShardSource(task.config.data)[0])
    row = replace(rows, pictures=picture[None], time_ids=torch.tensor([time_ids]), draws=[Draws(TIMESTEPS[0], False, False, 0)])
    with torch.no_grad():
        expected = task._losses(row).item()
    assert found[f"held_out_loss_t{TIMESTEPS[0]}"] == pytest.approx(expected, rel=1e-4)


def test_another_vae_than_the_one_that_made_the_latents_is_told(
    make: Callable[..., FinetuneTask], shards: Path, vae: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    latents, other = tmp_path / "latents", shutil.copytree(vae, tmp_path / "other")
    given = ["--data", str(shards), "--vae", str(vae), "--out", str(latents), "--resolution", "64", "--dtype", "bf16"]
    assert cache.main(["latents", *given]) == 0
    cached = {"vae": None, "latents": latents}
    make(look_vae=vae, **cached)
    assert "is not the VAE" not in caplog.text
    weights = load_file(other / FILE)
    save_file({name: 2 * tensor for name, tensor in weights.items()}, other / FILE)
    make(look_vae=other, **cached)
    assert f"{other} is not the VAE that made the cached latents" in caplog.text


def test_people_are_held_out_whole_by_their_hash_alone_and_never_trained_on(
    make: Callable[..., FinetuneTask], shards: Path
) -> None:
    source = ShardSource(shards)
    people = [source[row].identity for row in range(len(source))]
    task = make(held_out=None, held_out_share=0.3, steps=30)
    expected = {row for row, person in enumerate(people) if is_held_out(str(person), 0.3)}
    assert 0 < len(expected) < len(people) and expected == set(np.flatnonzero(held_out_by_person(source, 0.3, ONE)))
    backwards = ShardSource([shards / "001.tar", shards / "000.tar"], read=("caption",))
    assert {backwards.key(row) for row in np.flatnonzero(held_out_by_person(backwards, 0.3, ONE))} == set(
        map(source.key, expected)
    )
    trained = {row for step in range(30) for row in task._reader(step).index}  # five epochs
    assert trained == set(range(len(source))) - expected
    assert task.look
    assert {sample.key for sample in task.look._loss._samples} <= set(map(source.key, expected))


def test_a_thousandth_of_all_people_is_about_a_thousandth() -> None:
    assert sum(is_held_out(str(person), 0.001) for person in range(100_000)) == pytest.approx(100, abs=30)
    assert not any(is_held_out(str(person), 0.0) for person in range(1000))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"held_out": "", "look_every": 5}, "look_every needs people whom the run is not trained on"),
        ({"held_out_share": 0.5}, "held_out and held_out_share are both given"),
        ({"held_out": "", "held_out_share": 1.5}, "held_out_share is 1.5; it is a share"),
        ({"look_steps": 0}, "look_steps and the number of look_prompts are at least 1"),
        ({"look_prompts": ()}, "at least 1; found 0, 3, 2, 2 and 0"),
        ({"vae": None, "latents": Path("nowhere")}, "name the VAE with --look-vae"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(options: dict[str, Any], message: str, arguments: Arguments) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(parse(FinetuneConfig, arguments(steps=2)), **options)


def test_a_share_that_nobody_falls_into_is_refused(make: Callable[..., FinetuneTask]) -> None:
    with pytest.raises(ConfigError, match="keeps 0 of 24 rows out, by their people"):
        make(held_out=None, held_out_share=1e-6)


def test_held_out_rows_without_a_face_are_refused(make: Callable[..., FinetuneTask], guided_shards: Path) -> None:
    with pytest.raises(ConfigError, match="No held-out row shows a face"):
        make(held_out=guided_shards)


def test_likeness_is_the_mean_over_pictures_with_a_face_of_people_whose_photo_shows_one(
    make: Callable[..., FinetuneTask],
) -> None:
    look = make(look_people=3, held_out_rows=24).look
    assert look and len(look.people) == 3
    look._judge = object()  # pyright: ignore[reportAttributeAccessIssue]  # what it would see is given below
    east, north = np.array([1.0, 0.0], np.float32), np.array([0.0, 1.0], np.float32)
    nobody = np.zeros((0, 0), np.float32)
    look._references = [east, None, north]
    slanted = np.array([[0.6, 0.8]], np.float32)
    # Two prompts each: the first person as he is and without a face, the second unknown, the third slanted, and two faces.
    faces = [east[None], nobody, east[None], east[None], slanted, np.stack([east, north])]
    found = look._likeness(faces)
    assert found["faces_found"] == 3 / 4
    assert found["face_similarity"] == pytest.approx((1 + 0.8 + 1) / 3)
    assert found["face_similarity_of_others"] == pytest.approx((0 + 0.6 + 1) / 3)
    assert look._likeness([nobody] * 6) == {"faces_found": 0.0}
    look._references = [None] * 3
    assert look._likeness(faces) == {}


def test_without_a_judge_likeness_is_left_out_and_said_unless_one_was_named(
    arguments: Arguments, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(name: str, device: torch.device) -> None:
        raise DetectorUnavailableError("No judge of likeness is ready.")

    monkeypatch.setattr(looking, "load_judge", missing)
    assert looking.find_judge(parse(FinetuneConfig, arguments(steps=1, look_judge="auto")), ONE) is None
    assert "face similarity is not measured. No judge of likeness is ready" in caplog.text
    with pytest.raises(ConfigError, match="No judge of likeness is ready. Or give --look-judge none"):
        looking.find_judge(parse(FinetuneConfig, arguments(steps=1, look_judge="dlib")), ONE)


def test_a_rows_flops_are_those_of_the_unet_that_runs(make: Callable[..., FinetuneTask]) -> None:
    task = make(activation_checkpointing=True)
    unet = task.unet
    unet.disable_gradient_checkpointing()
    inputs = torch.zeros(2, 4, 8, 8), torch.zeros(2, dtype=torch.long), torch.zeros(2, 77, unet.config.cross_attention_dim)
    pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
    added = {"text_embeds": torch.zeros(2, pooled), "time_ids": torch.zeros(2, 6)}
    with sdpa_kernel(SDPBackend.MATH):  # in matrix products: torch's counter knows no other attention of CPUs
        forward, backward = forward_and_backward(lambda: (unet(*inputs, added_cond_kwargs=added).sample,))
    assert 2 * task.flops_per_row(0) == forward + backward
