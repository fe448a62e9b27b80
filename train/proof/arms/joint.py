"""Training without pretraining: the encoder's fusion module learns with the UNet, by the diffusion loss alone (Fig. 2)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from faceclip import FaceCLIPEncoder
from faceclip.checkpoint import save_encoder

from ...data.captions import caption_ids, with_prefix
from ...finetune_sdxl.conditions import IdentitySource
from ...finetune_sdxl.config import FinetuneConfig
from ...finetune_sdxl.latents import Latents
from ...finetune_sdxl.reader import RowReader
from ...finetune_sdxl.rows import Rows
from ...finetune_sdxl.task import FinetuneTask
from ...frozen.faces import with_blank
from ...pretrain.model import freeze
from ...run.config import DTYPES
from ...run.ema import MovingAverage
from ...run.loop import make_optimizer
from ...run.ranks import Ranks


class JointTask(FinetuneTask):
    """`FinetuneTask` in which what pretraining would train of the encoder takes part: the same parameters, the same optimiser."""

    def __init__(
        self,
        config: FinetuneConfig,
        ranks: Ranks,
        unet: Any,
        encoder: FaceCLIPEncoder,
        identities: IdentitySource,
        latents: Latents,
        reader: RowReader,
    ):
        super().__init__(config, ranks, unet, encoder, identities, latents, reader)
        if ranks.world > 1 or config.micro_batch:
            raise ValueError("An encoder that learns with the UNet is trained on one rank, and with whole batches.")
        (branch,) = encoder.branches.values()
        self._unet_names = dict(self.names)
        self._branch_names: dict[str, nn.Parameter] = {f"branch.{name}": p for name, p in freeze(branch).items()}
        self.names = {**self._unet_names, **self._branch_names}
        self.optimizer = make_optimizer(config, self.names, ranks)
        self.average = MovingAverage(self.optimizer.shards.owned, config.ema) if config.ema else None
        encoder.train()
        self._conditions = self._condition  # they change at every step
        self._ids = lru_cache(maxsize=None)(caption_ids)

    def export(self) -> None:
        """What FinetuneTask writes, and `encoder.safetensors`: averaged as the UNet is."""
        whole, self.names = self.names, self._unet_names
        super().export()
        self.names = whole
        if self.average:
            for name, parameter in self._branch_names.items():
                parameter.data.copy_(self.average.shadow[name].to(DTYPES[self.config.dtype]))
        metadata = {"trained": "true", "steps": str(self.config.steps)}
        save_encoder(self.encoder, self.config.out / "encoder.safetensors", metadata)

    def _write(self, name: str, weights: Mapping[str, Tensor]) -> None:
        super()._write(name, {n: w for n, w in weights.items() if n in self._unet_names})

    @torch.enable_grad()
    def _condition(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """As FinetuneTask's, but gradients flow into the fusion module."""
        identity = self.identities(rows)
        kept = ~torch.tensor([draw.drop_face for draw in rows.draws], device=identity.present.device)
        identity = with_blank(identity.class_token, identity.patch_tokens, identity.present & kept, self.encoder)
        captions = ["" if draw.drop_text else caption for draw, caption in zip(rows.draws, rows.caption, strict=True)]
        ids = with_prefix(torch.stack([self._ids(caption) for caption in captions]), identity.present.cpu())
        return self.encoder.joint(ids, identity)
