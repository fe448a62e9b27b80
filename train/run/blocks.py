"""Blocks of a model, recomputed in backward or compiled, one by one."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


def checkpoint_activations(blocks: Iterable[nn.Module]) -> None:
    """Recompute each block in backward instead of keeping its activations; names of parameters do not change."""
    from functools import partial

    from torch.utils.checkpoint import checkpoint

    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Compile each block with torch.compile; names of parameters do not change.

    Before `checkpoint_activations`, not after.

    Blocks of one kind share their code, so a deep model compiles as fast as a shallow one; compiling it whole
    would take as many times longer as it has blocks. DistributedDataParallel and GradCache see plain modules
    around them. Dropout draws what it would draw uncompiled.
    """
    for block in blocks:
        block.forward = torch.compile(block.forward, options={"fallback_random": True})
