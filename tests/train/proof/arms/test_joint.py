"""The arm whose encoder learns with its UNet: what learns, what gradients reach, and where it cannot be trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from train.finetune_sdxl.task import FinetuneTask
from train.proof.arms.joint import LearningConditions
from train.proof.arms.training import build_finetuning, finetune_config
from train.proof.plan import arms
from train.proof.workshop import Workshop
from train.run.config import ConfigError
from train.run.ranks import Ranks

RANKS = Ranks(0, 1, torch.device("cpu"))
JOINT = next(arm for arm in arms() if arm.start == "joint")


@pytest.fixture(scope="module")
def task(shop: Workshop, finish: Any) -> FinetuneTask:
    finish(shop, "pretrain/diffusion-only")
    return build_finetuning(shop, finetune_config(shop, JOINT, 0), RANKS, JOINT)


def test_the_diffusion_loss_reaches_unet_and_encoder(task: FinetuneTask) -> None:
    learns = task.conditions.learns
    assert learns and all(name.startswith("branch.") for name in learns) and learns.items() <= task.names.items()
    task.backward(task.batch(0), 0)
    reached = {name for name, parameter in task.names.items() if parameter.grad is not None and parameter.grad.any()}
    assert any(name in learns for name in reached) and any(name not in learns for name in reached)


def test_several_ranks_are_refused(task: FinetuneTask) -> None:
    assert isinstance(task.conditions, LearningConditions)
    nothing: Any = None
    with pytest.raises(ConfigError, match="on one rank"):
        FinetuneTask(task.config, Ranks(0, 2, torch.device("cpu")), nothing, nothing, nothing, task.conditions)
