"""One step of stage 2 (paper, section 3.4): SDXL's whole UNet on noise prediction with the joint condition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..data.course import Course
from ..run.blocks import compile_blocks
from ..run.checkpointing import SavedState
from ..run.config import DTYPES, ConfigError
from ..run.ema import MovingAverage
from ..run.flops import on_meta
from ..run.gradient_sum import GradientSum
from ..run.loop import make_optimizer
from ..run.ranks import Ranks, wrap
from ..run.sharding import optimizer_state
from ..run.state import State, model_state
from .conditions import Conditions
from .config import FinetuneConfig
from .cuda_graph import GraphedUNet
from .diffusion import NoiseSchedule
from .flops import unet_flops
from .latents import LatentSource
from .looking import Look
from .lora import add_lora, require_same_training, write_lora
from .reader import Prefetch, RowReader
from .rows import Rows
from .unet_files import write_unet


class FinetuneTask:
    """SDXL finetuning as the loop sees it (`train.run.loop.Task`)."""

    fingerprint: str = ""
    """Of what it is trained on; empty where nobody has told."""
    look: Look | None = None
    """What shows what the UNet learns, where the run looks."""

    def __init__(
        self,
        config: FinetuneConfig,
        ranks: Ranks,
        unet: Any,
        latents: LatentSource,
        reader: Callable[[int], Rows],
        conditions: Conditions,
        emphasis: Callable[[Rows], Tensor] | None = None,
    ):
        """
        Args:
            unet: a diffusers UNet of SDXL's kind, that takes embeddings of the conditions' width.
            reader: a step's number -> this rank's rows.
            emphasis: rows -> weights [b, 1, h, w] of the places of their latents in the loss; alike by default.
        """
        if config.cuda_graph and (ranks.device.type != "cuda" or ranks.world_size > 1):
            raise ConfigError(
                f"cuda_graph is for one GPU; this run has {ranks.world_size} ranks on {ranks.device.type}. Leave it out."
            )
        if conditions.learns and (ranks.world_size > 1 or config.micro_batch):
            raise ConfigError("Conditions that learn with the UNet are trained on one rank, and with whole batches.")
        self.config = config
        self.ranks = ranks
        self.latents = latents
        self.conditions = conditions
        # Of a UNet without a file nobody says what it predicts: the noise, as in the paper.
        prediction = "epsilon" if config.prediction == "auto" else config.prediction
        self.schedule = NoiseSchedule.sdxl(prediction, config.min_snr, config.zero_terminal_snr)
        self.unet = unet.train().requires_grad_(True)
        trained = add_lora(self.unet, config.lora, config.seed) if config.lora else dict(self.unet.named_parameters())
        self._kind = "lora" if config.lora else "unet"
        self.unet.to(ranks.device)
        self._counted = on_meta(self.unet)
        self._flops: dict[int, float] = {}
        if config.activation_checkpointing:
            self.unet.enable_gradient_checkpointing()
        if config.compile:
            compile_blocks(m for m in self.unet.modules() if type(m).__name__ in self.unet._repeated_blocks)
        self._unet_names = frozenset(trained)
        self.names: dict[str, nn.Parameter] = {**trained, **conditions.learns}
        self.optimizer = make_optimizer(config, self.names, ranks)
        self.average = MovingAverage(self.optimizer.shards.owned, config.ema) if config.ema else None
        self.wrapped = wrap(self.unet, ranks)
        self._reader = reader
        self._emphasis = emphasis
        self._rows = Prefetch(reader)
        self._row_losses: list[float] = []
        self._graphed = GraphedUNet(self.unet) if config.cuda_graph else None

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.names.values())

    def follow(self, course: Course) -> None:
        if isinstance(self._reader, RowReader):
            self._reader.follow(course)

    def batch(self, step: int) -> Mapping[str, Any]:
        return {"rows": self._rows[step]}

    def unusable(self, batch: Mapping[str, Any]) -> list[tuple[str, str]]:
        return [each for row in batch["rows"].unusable or [] for each in row]

    def suspects(self, batch: Mapping[str, Any]) -> list[str]:
        keys: list[str] = batch["rows"].key
        found = [key for key, good in zip(keys, torch.tensor(self._row_losses).isfinite().tolist(), strict=True) if not good]
        if any(self.ranks.any(bool(found))):
            return found or ["none of its rows"]  # they are another rank's
        return keys  # every loss is finite: the gradient is not, and does not tell by whom

    def backward(self, batch: Mapping[str, Any], step: int) -> dict[str, float]:
        rows: Rows = batch["rows"]
        count = len(rows.key)
        size = self.config.micro_batch or count
        losses = []
        gathered = GradientSum(self.parameters)
        for start in range(0, count, size):
            last = start + size >= count
            if last:
                gathered.give()  # before the last backward pass, which sends it to the other ranks
            waits = isinstance(self.wrapped, DistributedDataParallel) and not last
            with self.wrapped.no_sync() if waits else nullcontext():  # pyright: ignore[reportCallIssue]
                found = self._losses(rows.part(slice(start, start + size)))
                (found.sum() / count).backward()
            if not last:
                gathered.take()
            losses.append(found.detach())
        self._row_losses = torch.cat(losses).tolist()
        return {"loss": sum(self._row_losses) / len(self._row_losses)}

    def after_step(self, step: int) -> None:
        if self.average:
            self.average.update(self.optimizer)

    def state(self) -> State:
        average = self.average.state(self.optimizer.shards) if self.average else {}
        return {**model_state(self._kind, self.names), **optimizer_state(self.optimizer), **average}

    def load_state(self, saved: SavedState, step: int) -> None:
        require_same_training(saved, self.config)
        saved.read_into(self.state(), whole=self._kind)

    def evaluate_start(self) -> Mapping[str, float | Path]:
        return self._look(0)

    def evaluate(self, step: int) -> Mapping[str, float | Path]:
        every = self.config.look_every
        return self._look(step) if step == self.config.steps or (every and step % every == 0) else {}

    def flops_per_row(self, step: int) -> float:
        """Of the UNet, by the square bucket: the others have about its area. The frozen models do not count."""
        side = self.config.phase_of(step).resolution
        if side not in self._flops:
            self._flops[side] = unet_flops(self._counted, (side, side)).model
        return self._flops[side]

    def export(self) -> None:
        """`unet/`, a diffusers folder: the moving average where there is one.

        `unet_last/` then holds the weights as they are.

        `unet/diffusion_pytorch_model.safetensors` is what ComfyUI's Load
        FaceCLIP UNet reads; `scheduler/` is for diffusers. Of a LoRA `lora.safetensors` and `lora_last.safetensors`.
        """
        dtype = DTYPES[self.config.dtype]
        average = self.optimizer.shards.collect(self.average.shadow, dtype) if self.average else None
        if not self.ranks.is_main:
            return
        self.schedule.write_scheduler(self.config.out / "scheduler")
        final = self.names if average is None else average
        self._write(self._kind, final)
        if average is not None:
            self._write(f"{self._kind}_last", self.names)
        self.conditions.save({name: final[name].detach() for name in self.conditions.learns})

    def _look(self, step: int) -> Mapping[str, float | Path]:
        if self.look is None:
            return {}
        with self.average.in_place(self.optimizer.shards) if self.average else nullcontext():
            return self.look(step)

    def _write(self, name: str, weights: Mapping[str, Tensor]) -> None:
        folder, dtype = self.config.out / name, DTYPES[self.config.dtype]
        trained = {n: w.detach().to(dtype) for n, w in weights.items() if n in self._unet_names}
        metadata = {"steps": str(self.config.steps), **self.schedule.metadata}
        if self.config.lora:
            write_lora(folder.with_suffix(".safetensors"), trained, dtype, metadata)
            return
        write_unet(folder, self.unet, {**self.unet.state_dict(), **trained}, metadata)

    def _losses(self, rows: Rows) -> Tensor:
        """[b] each row's loss. The frozen models run here, too, so that they never hold more rows at once than the UNet."""
        device, dtype = self.ranks.device, DTYPES[self.config.dtype]
        latents = self.latents.encode(rows.pictures, rows.draws).to(device)
        embeddings, pooled = (condition.to(device, dtype) for condition in self.conditions(rows))
        # Each row's second stream of its own: the first one may have sampled the VAE's posterior.
        generators = [torch.Generator("cpu").manual_seed(draw.seed + 1) for draw in rows.draws]
        noise = torch.cat([torch.randn(1, *latents.shape[1:], generator=g) for g in generators]).to(device)
        timesteps = torch.tensor([draw.timestep for draw in rows.draws], device=device)
        noisy = self.schedule.add_noise(latents.float(), noise, timesteps).to(dtype)
        # Sizes stay in fp32, where their sinusoids are computed: bf16 would make 1024 of 1023.
        time_ids = rows.time_ids.to(device, torch.float32)
        if self._graphed:
            predicted = self._graphed(noisy, timesteps, embeddings, pooled, time_ids)
        else:
            added = {"text_embeds": pooled, "time_ids": time_ids}
            predicted = self.wrapped(noisy, timesteps, embeddings, added_cond_kwargs=added).sample
        emphasis = self._emphasis(rows).to(device) if self._emphasis else None
        return self.schedule.losses(predicted, latents.float(), noise, timesteps, emphasis)
