"""Compute what is frozen once: `python -m train.cache pretrain ...` or `python -m train.cache latents ...`.

    python -m train.cache pretrain --data SHARDS --out CACHE --teacher ViT-L-14-quickgelu --init-clip CLIP --init-face ARCFACE
    python -m train.cache latents --data SHARDS --out CACHE --vae VAE

Under torchrun every process takes a stretch of the samples. The same
command goes on with an interrupted cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from faceclip import FaceCLIPConfig, FaceCLIPEncoder

from ..data.decode import DecodeSample
from ..data.framing import aspect_buckets
from ..data.shards import Member, Sample, ShardSource
from ..frozen.config import TowerConfig
from ..frozen.faces import identity_of_faces, text_embedding
from ..frozen.starts import named_starts
from ..frozen.teacher import ImageTeacher, load_teacher
from ..frozen.towers import new_encoder, weights_digest
from ..frozen.vae import load_vae
from ..run.command_line import run_command
from ..run.config import DTYPES
from ..run.ranks import Ranks, distributed
from .features import cache_features
from .latents import cache_latents
from .row_store import CacheError, RowStore


@dataclass(frozen=True, kw_only=True)
class FeatureConfig(TowerConfig):
    """Outputs of the frozen towers: CLIP embeddings and face features. The towers are named as for `train.pretrain`."""

    data: str
    """Shards (a folder, a pattern or a URL)."""
    out: Path
    """Folder of the cache."""
    encoder: Path | None = None
    """Finished FaceCLIP encoder: caches its face features alone, for `train.finetune_sdxl`."""
    faces: bool = True
    """Cache class tokens. Leave out for guided shards, which show none."""
    patch_tokens: bool = True
    """Cache patch tokens too: 221 KB a sample in float16, where class tokens take 2 KB."""
    captions: bool = False
    """Cache the text tower's embeddings of the captions, the text loss's targets."""
    patch_dtype: Literal["float16", "float32"] = "float16"
    """Precision that patch tokens are stored in; everything else is float32."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Precision that the towers compute in."""
    batch_size: int = 64
    """Samples that go through the towers at once."""
    threads: int = 8
    """Threads that read and decode."""


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """VAE latents per aspect bucket, with the size conditions of the pixels they were made from."""

    data: str
    """Shards (a folder, a pattern or a URL)."""
    out: Path
    """Folder of the cache."""
    vae: Path
    """VAE, in diffusers' format (a folder) or a file such as sdxl_vae.safetensors: SDXL's, or a tiny one."""
    resolution: int = 1024
    """Side in pixels of the square bucket; the others have about its area."""
    bucket_step: int = 64
    """Buckets' sides are multiples of this many pixels."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision that the VAE computes in: by itself bf16 on a GPU, fp32 elsewhere, and what a cache was begun with.
    SDXL's own VAE overflows in fp16. Latents are stored in 16 bits (float16) either way."""
    batch_size: int = 4
    """Photographs that go through the VAE at once."""
    threads: int = 8
    """Threads that read and decode."""


class FrozenTowers:
    """The towers of a cache: what to read of a sample, what to make of a batch, and what the towers are."""

    def __init__(self, config: FeatureConfig, device: torch.device):
        """Raises CacheError if the options ask for nothing, InitError or CheckpointError for weights that do not fit."""
        if not (config.faces or config.captions or config.teacher):
            raise CacheError("There is nothing to cache: name a --teacher, or leave --faces or --captions on.")
        if config.encoder and (config.teacher or config.captions):
            raise CacheError("--encoder caches face features alone; leave --teacher and --captions out, or use --init-encoder.")
        if not config.encoder:
            config = named_starts(config, face=config.faces, text=config.captions)
        self._config = config
        self._encoder: FaceCLIPEncoder | None = None
        self._teacher: ImageTeacher | None = None
        if config.faces or config.captions:
            encoder = FaceCLIPEncoder.from_file(config.encoder) if config.encoder else new_encoder(config)
            self._encoder = encoder.eval().requires_grad_(False).to(device, DTYPES[config.dtype])
            self._encoder.compute_dtype = DTYPES[config.dtype]
        if config.teacher:
            width = FaceCLIPConfig.preset(config.size).branches[config.branch].width
            self._teacher = load_teacher(config.teacher, config.clip_file, width).to(device, DTYPES[config.dtype])

    @property
    def reads(self) -> tuple[Member, ...]:
        """The members of a sample that the towers look at."""
        image: tuple[Member, ...] = ("image",) if self._teacher else ()
        face: tuple[Member, ...] = ("face",) if self._config.faces else ()
        return (*image, *face, "caption", "meta")

    def decode(self, sample: Sample, random: np.random.Generator) -> dict[str, Any]:
        """A sample's row of a batch, as `Transform` has it."""
        pictures = DecodeSample(self._teacher.size if self._teacher else None, faces=self._config.faces)
        return {**pictures(sample, random), "has_face": sample.face is not None}

    def made_by(self) -> dict[str, Any]:
        """What identifies the weights."""
        towers: dict[str, Any] = {"dtype": self._config.dtype}
        if self._teacher:
            towers["teacher"] = f"{self._config.teacher} {weights_digest(self._teacher)}"
        if self._encoder and self._config.faces:
            towers["signature"] = self._encoder.signature().tolist()
        if self._encoder and self._config.captions:
            towers["text"] = weights_digest(self._encoder.branches[self._config.branch].transformer)
        return towers

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """`clip_image` [b, dt], `class_token` [b, F, 512], `patch_tokens` [b, F, 144, w], `clip_text` [b, dt]."""
        features: dict[str, Tensor] = {}
        if self._teacher:
            features["clip_image"] = self._teacher(batch["image"])
        if self._encoder and self._config.faces:
            identity = identity_of_faces(self._encoder, batch["face"], batch["has_face"])
            features["class_token"] = identity.class_token
            if self._config.patch_tokens:
                features["patch_tokens"] = identity.patch_tokens
        if self._encoder and self._config.captions:
            features["clip_text"] = text_embedding(self._encoder.branches[self._config.branch], batch["ids"])
        return features


def run_features(config: FeatureConfig, ranks: Ranks) -> None:
    """Fill the cache that `config` describes, this rank's part."""
    towers = FrozenTowers(config, ranks.device)
    with _progress("features", ranks) as report:
        cache_features(
            ShardSource(config.data, read=towers.reads),
            config.out,
            towers,
            towers.decode,
            towers.made_by(),
            dtypes={"patch_tokens": config.patch_dtype},
            batch_size=config.batch_size,
            threads=config.threads,
            part=(ranks.rank, ranks.world_size),
            progress=report,
        )


def run_latents(config: LatentConfig, ranks: Ranks) -> None:
    """Fill the cache that `config` describes, this rank's part."""
    precision = latent_precision(config, ranks.device)
    dtype = DTYPES[precision]
    vae = load_vae(config.vae, dtype).to(ranks.device)

    @torch.no_grad()
    def encode(pixels: Tensor) -> tuple[Tensor, Tensor]:
        gaussian = vae.encode(pixels.to(ranks.device, dtype)).latent_dist
        return gaussian.mean, gaussian.std

    made_by = {"vae": weights_digest(vae), "scaling_factor": vae.config.scaling_factor, "dtype": precision}
    with _progress("latents", ranks) as report:
        cache_latents(
            ShardSource(config.data),
            config.out,
            encode,
            aspect_buckets(config.resolution, config.bucket_step),
            made_by,
            batch_size=config.batch_size,
            threads=config.threads,
            part=(ranks.rank, ranks.world_size),
            progress=report,
        )


def latent_precision(config: LatentConfig, device: torch.device) -> str:
    """`fp32` or `bf16`: what was asked for; else that of the cache that is there, so that it goes on.

    Else the device's.
    """
    if config.dtype != "auto":
        return config.dtype
    begun = RowStore.begun_with(config.out).get("dtype")
    return begun if begun in DTYPES else "bf16" if device.type == "cuda" else "fp32"


@contextmanager
def _progress(what: str, ranks: Ranks) -> Iterator[Callable[[int, int], None]]:
    """A bar with samples/s on the first rank."""
    with tqdm(desc=what, unit=" samples", disable=not ranks.is_main) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield advance


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 when finished, 1 for an error that it explains."""
    return run_command(lambda: _fill(argv))


def _fill(argv: Sequence[str] | None) -> None:
    import tyro

    kinds = Annotated[FeatureConfig, tyro.conf.subcommand("pretrain")] | Annotated[LatentConfig, tyro.conf.subcommand("latents")]
    config: Any = tyro.cli(kinds, args=argv, prog="python -m train.cache")  # type: ignore[call-overload]
    with distributed() as ranks:
        if isinstance(config, FeatureConfig):
            run_features(config, ranks)
        else:
            run_latents(config, ranks)
