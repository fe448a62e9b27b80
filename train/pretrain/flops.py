"""What a row of pretraining computes."""

from __future__ import annotations

import torch
from torch import Tensor

from faceclip import FaceCLIPConfig, FaceCLIPEncoder

from ..run.blocks import checkpoint_activations
from ..run.flops import StepFlops, forward_and_backward
from .model import PretrainModel, blocks_of, freeze


def pretraining_flops(config: FaceCLIPConfig, checkpointing: bool = False) -> StepFlops:
    """Of one row of pretraining with cached features: the trained path, through the frozen text tower.

    Alone: what a batch computes once, the projected positions, counts with it. config: of an encoder with one
    branch. With `checkpointing`, `recomputed` is the difference that it makes.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = PretrainModel(FaceCLIPEncoder(config))
    freeze(model.branch)
    forward, backward = forward_and_backward(lambda: model(*pretraining_inputs(config, 1)))
    if not checkpointing:
        return StepFlops(forward, backward)
    checkpoint_activations(blocks_of(model.branch))
    _, again = forward_and_backward(lambda: model(*pretraining_inputs(config, 1)))
    return StepFlops(forward, backward, again - backward)


def pretraining_inputs(config: FaceCLIPConfig, rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `PretrainModel` takes, on the meta device."""
    (branch,) = config.branches.values()
    face = branch.face
    return (
        torch.zeros(rows, branch.text.context, dtype=torch.long, device="meta"),
        torch.zeros(rows, 1, face.classes, device="meta"),
        torch.zeros(rows, 1, face.grid**2, face.width, device="meta"),
        torch.ones(rows, dtype=torch.bool, device="meta"),
    )
