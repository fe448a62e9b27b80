"""The UNet that the proof's arms start from: what it learns from, and who starts there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from train.finetune_sdxl.rows import Draws
from train.finetune_sdxl.task import FinetuneTask
from train.proof.arms.base import TextConditions
from train.proof.arms.training import build_task, dropped_together, finetune_config, pretrain_config, unet_config
from train.proof.arms.variants import new_unet, starting_encoder
from train.proof.plan import Arm, arms
from train.proof.workshop import Workshop
from train.run.ranks import Ranks

RANKS = Ranks(0, 1, torch.device("cpu"))
ARMS = {arm.name: arm for arm in arms()}
TOGETHER = Draws(timestep=0, drop_text=True, drop_face=True, seed=0)
NOTHING = Draws(timestep=0, drop_text=False, drop_face=False, seed=0)


def _text_task(shop: Workshop) -> tuple[FinetuneTask, TextConditions]:
    config = unet_config(shop, "main", shop.out / "try", shop.base / "clip.safetensors", 1)
    conditions = TextConditions(starting_encoder(pretrain_config(shop, Arm("base"), 0), "release").eval())
    return build_task(shop, config, RANKS, conditions.encoder.config, conditions), conditions


def test_its_condition_is_clips_text_and_knows_no_face(shop: Workshop) -> None:
    task, conditions = _text_task(shop)
    rows = task.batch(0)["rows"]
    rows = replace(rows, draws=[NOTHING] * len(rows.key))
    hidden, pooled = conditions(rows)
    strangers = replace(rows, index=rows.index[::-1], key=rows.key[::-1], has_face=~rows.has_face)
    assert torch.equal(conditions(strangers)[0], hidden)
    assert hidden.shape == (len(rows.key), 77, conditions.encoder.config.width)
    reworded, _ = conditions(replace(rows, caption=["a red apple", *rows.caption[1:]]))
    assert not torch.equal(reworded[0], hidden[0]) and torch.equal(reworded[1:], hidden[1:])
    # Pooled is the hidden state of the end-of-text token, one of the 77.
    assert all((row == vector).all(-1).any() for row, vector in zip(hidden, pooled, strict=True))


def test_a_dropped_caption_is_the_empty_one(shop: Workshop) -> None:
    task, conditions = _text_task(shop)
    rows = task.batch(0)["rows"]
    dropped = conditions(replace(rows, draws=[TOGETHER] * len(rows.key)))
    empty = conditions(replace(rows, draws=[NOTHING] * len(rows.key), caption=[""] * len(rows.key)))
    assert torch.equal(dropped[0], empty[0]) and torch.equal(dropped[1], empty[1])


def test_main_arms_start_from_the_base_whatever_their_seed(shop: Workshop) -> None:
    trained = _base_weights(shop)
    for seed in (0, 1):
        config = finetune_config(shop, ARMS["untrained"], seed)
        encoder = starting_encoder(pretrain_config(shop, ARMS["untrained"], seed), "release")
        task = build_task(shop, config, RANKS, encoder.config, TextConditions(encoder))
        assert all(torch.equal(task.names[name], tensor) for name, tensor in trained.items())


def _base_weights(shop: Workshop) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(shop.base / "unet" / "diffusion_pytorch_model.safetensors")


def test_base_was_trained_and_its_average_is_what_arms_get(shop: Workshop) -> None:
    encoder = starting_encoder(pretrain_config(shop, Arm("base"), 0), "release")
    start = new_unet(encoder.config, shop.plan.unet_widths, shop.plan.size // 8, 0).state_dict()
    assert any(not torch.equal(start[name], tensor) for name, tensor in _base_weights(shop).items())


def test_worlds_of_the_share_sweep_start_from_nothing(shop: Workshop) -> None:
    config = finetune_config(shop, ARMS["share 0.5 diffusion only"], 0)
    assert config.unet is None and config.steps == shop.plan.share_steps
    assert (config.drop_text, config.drop_face, config.drop_both) == (0.05, 0.05, 0.1)


def test_text_and_face_are_dropped_together_as_often_as_text_was(shop: Workshop) -> None:
    config = finetune_config(shop, ARMS["L3"], 0)
    assert (config.drop_text, config.drop_face, config.drop_both) == (0.0, 0.0, pytest.approx(0.15))
    assert config.steps == shop.plan.finetune_steps
    assert dropped_together(replace(config, drop_text=0.2, drop_both=0.0))["drop_both"] == 0.2
