"""Training without pretraining: the encoder's fusion module learns with
the UNet, by the diffusion loss alone (Fig. 2)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor, nn

from faceclip import FaceCLIPEncoder

from ...data.captions import caption_ids, with_prefix
from ...finetune_sdxl.conditions import Condition, Conditions, IdentitySource, kept_captions, kept_identity
from ...finetune_sdxl.config import FinetuneConfig
from ...finetune_sdxl.rows import Rows
from ...pretrain.model import freeze


class LearningConditions(Conditions):
    """`JointConditions` through which gradients flow: what pretraining would
    train of the encoder learns with the UNet.

    When the run ends, `encoder.safetensors` is written beside the UNet, averaged as that is.
    """

    def __init__(self, config: FinetuneConfig, encoder: FaceCLIPEncoder, identities: IdentitySource):
        self.encoder = encoder.train()
        self._config = config
        self._identities = identities
        self._learns: dict[str, nn.Parameter] = {
            f"branch.{branch}.{name}": parameter
            for branch, module in encoder.branches.items()
            for name, parameter in freeze(module).items()  # pyright: ignore[reportArgumentType]
        }
        self._ids = lru_cache(maxsize=None)(caption_ids)

    @property
    def learns(self) -> dict[str, nn.Parameter]:
        return self._learns

    def __call__(self, rows: Rows) -> Condition:
        identity = kept_identity(self.encoder, self._identities, rows)
        ids = with_prefix(torch.stack([self._ids(caption) for caption in kept_captions(rows)]), identity.present.cpu())
        return self.encoder.joint(ids, identity)

    def save(self, weights: Mapping[str, Tensor]) -> None:
        for name, parameter in self._learns.items():
            parameter.data.copy_(weights[name])
        metadata = {"trained": "true", "steps": str(self._config.steps)}
        self.encoder.save(self._config.out / "encoder.safetensors", metadata)
