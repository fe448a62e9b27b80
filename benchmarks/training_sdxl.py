"""The full SDXL step of `train/finetune_sdxl/task.py` against plain code
in the manner of diffusers' text-to-image example."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.optimization import get_scheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.amp import autocast_mode
from training_common import SDXL_VAE, Step, Timing, machine, matmul_peak, megabytes, ratios, spread, table, take_turns
from training_mfu import peak_note

from faceclip import FaceCLIPConfig, FaceCLIPEncoder, Identity
from faceclip.sdxl_files import UNET_CONFIG
from faceclip.vae_file import SDXL_SCALE
from train.finetune_sdxl.conditions import JointConditions
from train.finetune_sdxl.config import FinetuneConfig
from train.finetune_sdxl.flops import unet_flops
from train.finetune_sdxl.rows import Draws, Rows
from train.finetune_sdxl.task import FinetuneTask
from train.run.command_line import PRESETS
from train.run.config import DTYPES
from train.run.flops import flops
from train.run.loop import train_step
from train.run.ranks import Ranks

PIXELS = {"mini": 128, "sdxl": 1024}
MINI_VAE = {**SDXL_VAE, "block_out_channels": (32, 32, 64, 64), "layers_per_block": 1}


def measure(options: argparse.Namespace) -> str:
    """One row for each batch and contender. The ratio is ours / theirs, of neighbouring turns."""
    peak = matmul_peak(options.device, DTYPES[options.dtype], options.now)
    sample = flop_per_sample(options)
    rows = []
    for batch in options.batches:
        inputs = Inputs(options, batch)
        contenders = {
            "ours": lambda inputs=inputs: our_step(inputs),
            "plain": lambda inputs=inputs: PlainLoop(inputs, live=False),
            "plain, nothing cached": lambda inputs=inputs: PlainLoop(inputs, live=True),
        }
        found = take_turns(contenders, options.device, options.rounds, options.steps, warm_up=2, now=options.now)
        rows += [
            [str(batch), name, *_cells(found["ours"], timing, batch, sample, peak, options)] for name, timing in found.items()
        ]
    head = ["batch", "", "s/step", "ours / this", "samples/s", "TFLOP/s", "MFU of matmul", "MFU of peak", "MB"]
    kept = f"checkpointing {'on' if options.checkpointing else 'off'}, compile of ours {'on' if options.compile else 'off'}"
    title = (
        f"SDXL finetuning step at size {options.size}, {options.pixels} px, {options.dtype}, {kept}, moving average of decay "
        f"{options.ema:g}, {options.rounds} rounds of {options.steps} steps, {machine(options)}"
    )
    note = (
        f"{sample / 1e9:.1f} GFLOP a sample: the UNet's forward and backward pass and both encoders. {peak_note(peak, options)}"
    )
    return table(title, head, rows, note)


def _cells(
    ours: Timing | None, timing: Timing | None, batch: int, sample: int, peak: float, options: argparse.Namespace
) -> list[str]:
    if timing is None:
        return ["out of memory", *["-"] * 6]
    rate = batch / timing.median
    ratio = "1" if timing is ours else spread(ratios(ours, timing)) if ours else "-"
    named = f"{rate * sample / options.peak / 1e12:.2f}" if options.peak else "-"
    numbers = [f"{rate:.2f}", f"{rate * sample / 1e12:.3f}", f"{rate * sample / peak:.2f}", named]
    return [spread(timing.seconds, 3), ratio, *numbers, megabytes(timing.megabytes)]


class Inputs:
    """What all contenders are given: sizes, and one batch of pictures, faces and captions in memory."""

    def __init__(self, options: argparse.Namespace, batch: int):
        self.options, self.batch = options, batch
        self.device, self.dtype = options.device, DTYPES[options.dtype]
        self.caption = [f"a photograph of a person in a street at dusk, number {i}" for i in range(batch)]
        pixels = options.pixels
        self.time_ids = torch.tensor([[pixels, pixels, 0, 0, pixels, pixels]] * batch)
        generator = torch.Generator().manual_seed(0)
        self.latents = torch.randn(batch, 2, 4, pixels // 8, pixels // 8, generator=generator).abs()
        """The VAE's mean and spread, as the latent cache has them."""
        self.pictures = torch.randint(0, 256, (batch, 3, pixels, pixels), generator=generator, dtype=torch.uint8)
        self.faces = torch.rand(batch, 3, 448, 448, generator=generator)

    def unet(self, dtype: torch.dtype) -> Any:
        """A UNet of random weights on the device."""
        with self.device:
            return new_unet(self.options.size).to(dtype)

    def encoder(self) -> FaceCLIPEncoder:
        """Both branches, random and frozen, on the device."""
        with self.device:
            encoder = FaceCLIPEncoder(FaceCLIPConfig.preset(self.options.size))
        encoder.compute_dtype = self.dtype
        return encoder.to(self.dtype).eval().requires_grad_(False)

    def vae(self) -> Any:
        """A VAE of random weights on the device."""
        with self.device:
            vae: Any = AutoencoderKL(**(SDXL_VAE if self.options.size == "sdxl" else MINI_VAE))
            return vae.to(self.dtype).eval().requires_grad_(False)

    def identity(self, encoder: FaceCLIPEncoder) -> Identity:
        """Face features as the feature cache has them."""
        towers = len(encoder.face_towers)
        face = next(iter(encoder.config.branches.values())).face
        shapes = ((self.batch, towers, face.classes), (self.batch, towers, face.grid**2, face.width))
        class_token, patch_tokens = (torch.randn(shape, device=self.device, dtype=self.dtype) for shape in shapes)
        return Identity(
            class_token, patch_tokens, torch.ones(self.batch, dtype=torch.bool, device=self.device), encoder.signature()
        )


def new_unet(size: str) -> Any:
    """The shipped mini UNet's shape, or SDXL's; random weights."""
    return UNet2DConditionModel(**(UNET_CONFIG if size == "sdxl" else json.loads((PRESETS / "mini_unet.json").read_text())))


def our_step(inputs: Inputs) -> Step:
    """`FinetuneTask` on cached latents and faces, as `train.finetune_sdxl` runs it."""
    options = inputs.options
    config = FinetuneConfig(
        out=Path(),
        steps=1,
        batch_size=inputs.batch,
        data="",
        encoder=Path(),
        unet=Path(),
        latents=Path("memory"),
        resolution=options.pixels,
        dtype=options.dtype,
        ema=options.ema,
        activation_checkpointing=options.checkpointing,
        compile=options.compile,
    )
    ranks, encoder = Ranks(0, 1, inputs.device), inputs.encoder()
    identity = inputs.identity(encoder)
    latents: Any = MemoryLatents()
    conditions = JointConditions(encoder, lambda rows: identity)
    task = FinetuneTask(config, ranks, inputs.unet(inputs.dtype), latents, lambda step: _rows(inputs, config, step), conditions)
    return lambda step: train_step(task, config, ranks, step)


class MemoryLatents:
    """As `CachedLatents`: every step draws from the VAE's posterior anew."""

    def encode(self, pictures: Tensor, draws: list[Draws]) -> Tensor:
        mean, std = pictures.unbind(1)
        noise = torch.cat([torch.randn(1, *mean.shape[1:], generator=draw.generator()) for draw in draws])
        return (mean + std * noise) * SDXL_SCALE


def _rows(inputs: Inputs, config: FinetuneConfig, step: int) -> Rows:
    return Rows(
        index=list(range(inputs.batch)),
        key=[str(i) for i in range(inputs.batch)],
        caption=inputs.caption,
        has_face=torch.ones(inputs.batch, dtype=torch.bool),
        faces=None,
        pictures=inputs.latents,
        time_ids=inputs.time_ids,
        draws=[Draws.of(config, step, place) for place in range(inputs.batch)],
    )


class PlainLoop:
    """The usual way: fp32 weights, autocast where bf16 is asked for, torch's AdamW, noise drawn on the device.

    live: VAE and face tower run at every step; else latents and faces are
        there, and the encoders run, as in ours.
    """

    def __init__(self, inputs: Inputs, live: bool):
        options = inputs.options
        self.inputs, self.live = inputs, live
        self.encoder = inputs.encoder()
        self.vae = inputs.vae() if live else None
        self.identity = None if live else inputs.identity(self.encoder)
        self.mean, self.std = inputs.latents.to(inputs.device).unbind(1)
        self.unet = inputs.unet(torch.float32).train()
        if options.checkpointing:
            self.unet.enable_gradient_checkpointing()
        self.scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
        self.optimizer = torch.optim.AdamW(self.unet.parameters(), lr=2e-5, weight_decay=0.01)
        self.rates = get_scheduler("constant", self.optimizer)
        self.average = EMAModel(self.unet.parameters(), decay=options.ema) if options.ema else None

    def __call__(self, step: int) -> float:
        """One step; returns its loss."""
        latents, embeddings, pooled = self._inputs()
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, 1000, (len(latents),), device=latents.device)
        noisy: Any = self.scheduler.add_noise(latents, noise, timesteps)  # type: ignore[arg-type]
        added = {"text_embeds": pooled, "time_ids": self.inputs.time_ids.to(latents.device)}
        mixed = self.inputs.dtype != torch.float32
        with autocast_mode.autocast(latents.device.type, self.inputs.dtype if mixed else torch.bfloat16, enabled=mixed):
            predicted = self.unet(noisy, timesteps, embeddings, added_cond_kwargs=added).sample
        loss = F.mse_loss(predicted.float(), noise.float())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimizer.step()
        self.rates.step()
        self.optimizer.zero_grad()
        if self.average:
            self.average.step(self.unet.parameters())
        return loss.item()

    @torch.no_grad()
    def _inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        inputs = self.inputs
        identity = self.identity or self.encoder.encode_faces(inputs.faces.to(inputs.device))
        condition = self.encoder.encode(inputs.caption, identity)
        if self.vae is None:
            latents = (self.mean + self.std * torch.randn_like(self.std)) * SDXL_SCALE
        else:
            pictures = inputs.pictures.to(inputs.device, inputs.dtype) / 127.5 - 1
            latents = self.vae.encode(pictures).latent_dist.sample().float() * SDXL_SCALE
        return latents, condition.embeddings.float(), condition.pooled.float()


def flop_per_sample(options: argparse.Namespace) -> int:
    """The UNet's forward and backward pass, and the encoders' forward pass, counted on the meta device."""
    with torch.device("meta"):
        unet, encoder = new_unet(options.size), FaceCLIPEncoder(FaceCLIPConfig.preset(options.size))
        face = next(iter(encoder.config.branches.values())).face
        tokens = torch.zeros(1, 1, face.classes), torch.zeros(1, 1, face.grid**2, face.width)
        identity = Identity(*tokens, torch.ones(1, dtype=torch.bool), None)
        ids = torch.zeros(1, 77, dtype=torch.long)
    return unet_flops(unet, (options.pixels, options.pixels)).model + flops(lambda: encoder.joint(ids, identity))
