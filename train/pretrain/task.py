"""One step of pretraining (paper, section 3.3): the joint representation
of caption and face against three frozen towers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from faceclip import FaceCLIPEncoder
from faceclip.checkpoint import write_safetensors

from ..data.batches import TrainingData
from ..data.captions import with_prefix
from ..data.course import Course
from ..frozen.faces import text_embedding
from ..run.blocks import checkpoint_activations, compile_blocks
from ..run.checkpointing import ResumeError, SavedState
from ..run.config import DTYPES
from ..run.loop import make_optimizer
from ..run.ranks import Ranks, wrap
from ..run.sharding import optimizer_state
from ..run.state import State, model_state
from .config import PretrainConfig
from .features import Features, FeatureSource, in_slices, person_labels
from .flops import pretraining_flops
from .gradcache import gradcache_step
from .held_out import HeldOut
from .losses import FaceCLIPLoss, FaceCLIPLossConfig, LossParts, SentTargets, Targets, caption_labels
from .model import PretrainModel, blocks_of, freeze


class PretrainTask:
    """Pretraining as the loop sees it (`train.run.loop.Task`)."""

    fingerprint: str = ""
    """Of what it is trained on; empty where nobody has told."""

    def __init__(
        self,
        config: PretrainConfig,
        ranks: Ranks,
        encoder: FaceCLIPEncoder,
        data: TrainingData,
        features: FeatureSource,
        held_out: HeldOut | None = None,
    ):
        self.config = config
        self.ranks = ranks
        self.data = data
        self.features = features
        self.held_out = held_out
        self.model = _build(config, encoder, ranks)
        self.loss = FaceCLIPLoss(
            FaceCLIPLossConfig(**{t: t in config.terms for t in ("image", "identity", "text")}, kind=config.loss)
        )
        self.loss.to(ranks.device)
        trained = {f"branch.{name}": p for name, p in freeze(self.model.branch).items()}
        self.names: dict[str, nn.Parameter] = {**trained, **{f"heads.{n}": p for n, p in self.model.heads.named_parameters()}}
        self.loss_names = {f"loss.{name}": p for name, p in self.loss.named_parameters()}
        self.optimizer = make_optimizer(config, {**self.names, **self.loss_names}, ranks)
        self.wrapped = wrap(self.model, ranks)
        self._batches: Iterator[dict[str, Any]] | None = None
        self._flops = 0.0

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [*self.names.values(), *self.loss_names.values()]

    def follow(self, course: Course) -> None:
        self.data.follow(course)

    def unusable(self, batch: Mapping[str, Any]) -> list[tuple[str, str]]:
        return [(key, fault) for row in batch.get("unusable", []) for key, fault in json.loads(row)]

    def batch(self, step: int) -> Mapping[str, Any]:
        if self._batches is None:
            self.data.load_state_dict({"step": step})
            self._batches = iter(self.data)
        return next(self._batches)

    def suspects(self, batch: Mapping[str, Any]) -> list[str]:
        return batch["key"]  # a contrastive loss has no rows of its own: each meets all others

    def backward(self, batch: Mapping[str, Any], step: int) -> dict[str, float]:
        has_face = batch["has_face"]
        rows = self.config.micro_batch or len(has_face)
        features = Features.cat([self._frozen(part) for part in in_slices(batch, rows)])
        targets = self.loss.start(self._targets(batch, features))  # they travel while the encoder computes
        ids = with_prefix(batch["ids"], has_face).to(self.ranks.device)
        inputs = (ids, features.class_token, features.patch_tokens, has_face.to(self.ranks.device))
        chunks = list(zip(*(tensor.split(rows) for tensor in inputs), strict=True))
        self.wrapped.train()
        parts = self._accumulate(chunks, targets)
        values = {name: float(part.detach()) for name, part in zip(parts._fields[1:], parts[1:], strict=True) if part is not None}
        scales = {f"scale_{name}": float(value.detach().exp()) for name, value in self.loss.log_scale.items()}
        return {"loss": float(parts.total.detach()), **values, **scales}

    def after_step(self, step: int) -> None:
        pass  # the loss clamps its scales itself

    def state(self) -> State:
        signature = {"frozen.face_tower": self.model.encoder.signature(), "frozen.text_tower": self._text_sample()}
        return {**self._trained_state(), **signature}

    def load_state(self, saved: SavedState, step: int) -> None:
        require_same_frozen("face tower", self.model.encoder.signature(), saved["frozen.face_tower"])
        require_same_frozen("text tower", self._text_sample(), saved["frozen.text_tower"])
        saved.read_into(self._trained_state(), whole="model")

    def evaluate(self, step: int) -> dict[str, float]:
        every = self.config.evaluate_every
        due = step == self.config.steps or (every and step % every == 0)
        return self.held_out.measure(self.model, self.ranks) if due and self.held_out else {}

    def flops_per_row(self, step: int) -> float:
        """Of the trained path; frozen towers that run live do not count."""
        if not self._flops:
            self._flops = pretraining_flops(self.model.encoder.config).model
        return self._flops

    def export(self) -> None:
        """`encoder.safetensors`, which `FaceCLIPEncoder.from_file` and ComfyUI read, and `heads.safetensors`."""
        if not self.ranks.is_main:
            return
        metadata = {"trained": "true", "steps": str(self.config.steps)}
        self.model.encoder.save(self.config.out / "encoder.safetensors", metadata)
        heads = {f"heads.{name}": tensor for name, tensor in self.model.heads.state_dict().items()}
        heads |= {f"loss.{name}": tensor for name, tensor in self.loss.state_dict().items()}
        write_safetensors(self.config.out / "heads.safetensors", heads, {"format": "faceclip_training_heads"})

    def _accumulate(self, chunks: list[tuple[Tensor, ...]], targets: SentTargets) -> LossParts:
        """Leave the gradient of the whole batch's loss in the parameters; return the loss."""
        noted: list[LossParts] = []

        def total(features: tuple[Tensor, ...]) -> Tensor:
            noted.append(self.loss(*features, targets))
            return noted[0].total

        ddp = self.wrapped if isinstance(self.wrapped, DistributedDataParallel) else None
        gradcache_step(
            lambda chunk: self.wrapped(*chunk),
            chunks,
            total,
            ddp=ddp,
            parameters=self.names.values(),
            loss_parameters=self.loss.parameters(),
        )
        return noted[0]

    def _frozen(self, part: Mapping[str, Any]) -> Features:
        """What the frozen towers make of some rows: no more of them at once than go through the trained model."""
        features = self.features(part)
        if features.text is None and "text" in self.config.terms:
            return replace(features, text=text_embedding(self.model.branch, part["ids"]))
        return features

    def _targets(self, batch: Mapping[str, Any], features: Features) -> Targets:
        device, terms = self.ranks.device, self.config.terms
        return Targets(
            image=features.image if "image" in terms else None,
            identity=features.class_token[:, 0] if "identity" in terms else None,
            text=features.text if "text" in terms else None,
            has_face=batch["has_face"].to(device),
            identity_label=person_labels(batch["identity"], batch["has_face"], batch["index"]).to(device),
            caption_label=caption_labels(batch["caption"]).to(device),
        )

    def _trained_state(self) -> State:
        return {**model_state("model", {**self.names, **self.loss_names}), **optimizer_state(self.optimizer)}

    def _text_sample(self) -> Tensor:
        """A few weights of the frozen text tower: tells runs on different CLIPs apart."""
        return self.model.branch.text_projection.detach().flatten()[:64].float().cpu()


def require_same_frozen(what: str, mine: Tensor, saved: Tensor) -> None:
    """Raise ResumeError unless a frozen tower has the weights that the interrupted run had."""
    if mine.shape != saved.shape or not torch.allclose(mine, saved, rtol=2e-2, atol=1e-6):
        raise ResumeError(
            f"The interrupted run had another {what} than this one starts from, so it cannot go on. "
            "Give the files that it was started with (config.yaml in its folder), or another --out."
        )


def _build(config: PretrainConfig, encoder: FaceCLIPEncoder, ranks: Ranks) -> PretrainModel:
    """The model on its device and in its precision; the heads are the same on every rank."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = PretrainModel(encoder)
    dtype = DTYPES[config.dtype]
    model.to(ranks.device, dtype)
    encoder.compute_dtype = dtype
    if config.compile:
        compile_blocks(blocks_of(model.branch))
    if config.activation_checkpointing:
        checkpoint_activations(blocks_of(model.branch))
    return model
