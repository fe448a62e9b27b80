"""Pretraining as users run it: the command, its files, and what it leaves alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from faceclip import FaceCLIPEncoder
from train.data.captions import token_ids
from train.frozen.teacher import load_teacher
from train.frozen.towers import InitError, join, load_face_tower, load_text_tower, new_encoder
from train.pretrain.command import build, main
from train.pretrain.config import PretrainConfig
from train.pretrain.model import freeze
from train.run.command_line import parse
from train.run.loop import NonFiniteLossError, run
from train.run.ranks import Ranks

Arguments = Callable[..., list[str]]
ONE = Ranks(0, 1, torch.device("cpu"))


def test_the_command_writes_an_encoder_that_the_library_reads(
    pretrain_arguments: Arguments, shards: Path, tmp_path: Path, read_log: Callable
) -> None:
    assert main(pretrain_arguments(steps=3, held_out=shards, tensorboard=True)) == 0
    encoder = FaceCLIPEncoder.from_file(tmp_path / "run" / "encoder.safetensors")
    assert list(encoder.branches) == ["l"]
    identity = encoder.encode_faces(torch.rand(1, 3, 448, 448))
    assert encoder.encode(["a man on a beach"], identity).embeddings.shape == (1, 77, 32)
    heads = load_file(tmp_path / "run" / "heads.safetensors")
    assert heads["heads.text.weight"].shape == (32, 77 * 32) and "loss.log_scale.image" in heads
    lines = read_log(tmp_path / "run")
    steps = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in steps] == [1, 2, 3]
    assert {"loss", "image", "identity", "text", "scale_image", "lr", "samples_per_second"} <= steps[0].keys()
    (measured,) = [line for line in lines if line["kind"] == "evaluate"]
    assert {"retrieval", "identity", "zero_shot"} <= measured.keys()
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def test_only_the_fusion_module_and_the_projections_around_it_move(pretrain_arguments: Arguments, tmp_path: Path) -> None:
    arguments = pretrain_arguments(steps=2, lr=0.01)
    start = new_encoder(parse(PretrainConfig, arguments))
    trained = {f"face_clip_l.{name}" for name in freeze(start.branches["l"])}
    before = {name: tensor.clone() for name, tensor in start.state_dict().items()}
    assert main(arguments) == 0
    after = load_file(tmp_path / "run" / "encoder.safetensors")
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved == trained
    assert not any("face_encoder" in name or "resblocks" in name or "token_embedding" in name for name in moved)
    assert {"face_clip_l.proj1.weight", "face_clip_l.fuser.encoder.fusion_layers.0.attn.l_proj.weight"} <= moved


@pytest.mark.parametrize(
    "options",
    [
        {"terms": ("image",)},
        {"terms": ("image", "identity"), "loss": "siglip"},
        {"dtype": "bf16", "activation_checkpointing": True, "micro_batch": 2},
    ],
    ids=["L1", "L2 siglip", "bf16 in micro-batches"],
)
def test_variants_train(options: dict[str, Any], pretrain_arguments: Arguments, tmp_path: Path, read_log: Callable) -> None:
    assert main(pretrain_arguments(steps=2, **options)) == 0
    steps = [line for line in read_log(tmp_path / "run") if line["kind"] == "train"]
    present = {term for term in ("image", "identity", "text") if term in steps[0]}
    assert present == set(options.get("terms", ("image", "identity", "text")))
    assert steps[-1]["loss"] > 0


def test_micro_batches_with_recomputed_activations_give_the_same_gradient(pretrain_arguments: Arguments) -> None:
    def gradient(**options: Any) -> torch.Tensor:
        task = build(parse(PretrainConfig, pretrain_arguments(steps=1, dropout=0.0, **options)), ONE)
        task.backward(task.batch(0), 0)
        return torch.cat([parameter.grad.flatten() for parameter in task.parameters])

    whole, parts = gradient(), gradient(micro_batch=1, activation_checkpointing=True)
    assert (parts - whole).norm() < 1e-5 * whole.norm()


def test_a_loss_that_is_not_a_number_stops_before_the_step_and_names_the_batch(pretrain_arguments: Arguments) -> None:
    config = parse(PretrainConfig, pretrain_arguments(steps=3))
    config.out.mkdir(parents=True)
    task = build(config, ONE)
    before = {name: parameter.detach().clone() for name, parameter in task.names.items()}
    clean, seen = task.features, []

    def poisoned(batch: Any) -> Any:
        seen.append(batch["key"])
        features = clean(batch)
        return dataclasses.replace(features, patch_tokens=features.patch_tokens * float("nan"))

    task.features = poisoned
    with pytest.raises(NonFiniteLossError, match="the weights were not changed") as error:
        run(task, config, ONE)
    assert all(key in str(error.value) for key in seen[0])
    assert all(torch.equal(parameter, before[name]) for name, parameter in task.names.items())
    assert not list((config.out / "checkpoints").glob("step-*"))


def test_brackets_in_captions_are_text_not_weights() -> None:
    from open_clip.tokenizer import SimpleTokenizer

    expected = SimpleTokenizer()(["a man (left) at (sea:1.5)"])[0]
    assert torch.equal(token_ids(["a man (left) at (sea:1.5)"], [False])[0], expected)


def test_towers_are_read_from_clip_and_arcface_checkpoints(pretrain_arguments: Arguments, tmp_path: Path) -> None:
    config = parse(PretrainConfig, pretrain_arguments(seed=5))
    donor, other = new_encoder(config), new_encoder(dataclasses.replace(config, seed=6))
    text = {n: t for n, t in donor.branches["l"].state_dict().items() if n.split(".")[0] not in ("face_encoder", "fuser")}
    save_file({n: t.clone() for n, t in text.items()}, tmp_path / "clip.safetensors")
    torch.save(donor.branches["l"].face_encoder.state_dict(), tmp_path / "arcface.pt")
    load_text_tower(other.branches["l"], tmp_path / "clip.safetensors")
    load_face_tower(other.branches["l"], tmp_path / "arcface.pt")
    assert torch.equal(other.signature(), donor.signature())
    assert torch.equal(other.branches["l"].text_projection, donor.branches["l"].text_projection)
    assert not torch.equal(other.branches["l"].proj1.weight, donor.branches["l"].proj1.weight)


def test_a_checkpoint_of_another_teacher_is_refused_with_what_was_found(
    pretrain_arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = new_encoder(parse(PretrainConfig, pretrain_arguments(branch="g"))).branches["g"].state_dict()
    save_file({n: t.clone() for n, t in wide.items() if "face_encoder" not in n}, tmp_path / "bigg.safetensors")
    assert main(pretrain_arguments(init_clip=tmp_path / "bigg.safetensors")) == 1
    message = capsys.readouterr().err
    assert "bigg.safetensors is not the CLIP that FaceCLIP's text tower is" in message and "[77, 32]" in message
    assert "found [77, 48]" in message or "found [" in message
    with pytest.raises(InitError, match=r"gives embeddings of width 512, this FaceCLIP needs 768"):
        load_teacher("ViT-B-32", "", 768)
    with pytest.raises(InitError, match="open_clip has no model 'ViT-Q'"):
        load_teacher("ViT-Q", "", 32)
    with pytest.raises(InitError, match="is not the checkpoint of the teacher mini: it has no visual"):
        load_teacher("mini", tmp_path / "bigg.safetensors", 32)


def test_two_branches_trained_apart_join_into_one_encoder(pretrain_arguments: Arguments) -> None:
    config = parse(PretrainConfig, pretrain_arguments())
    left = new_encoder(config)
    right = new_encoder(dataclasses.replace(config, branch="g"))
    with pytest.raises(InitError, match="different face towers"):
        join(left, new_encoder(dataclasses.replace(config, branch="g", seed=9)))
    right.branches["g"].face_encoder.load_state_dict(left.branches["l"].face_encoder.state_dict())
    joined = join(right, left)
    assert list(joined.branches) == ["l", "g"] and len(joined.face_towers) == 1
    identity = joined.encode_faces(torch.rand(1, 3, 448, 448))
    assert joined.encode(["a man"], identity).embeddings.shape == (1, 77, 80)
    with pytest.raises(InitError, match="Both encoders have a branch"):
        join(left, left)
