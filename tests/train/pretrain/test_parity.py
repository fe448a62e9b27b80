"""The whole pretraining step, under DistributedDataParallel, against one process that holds every graph at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from faceclip import FaceCLIPConfig, FaceCLIPEncoder, Identity
from train.pretrain import gradcache
from train.pretrain.gradcache import gradcache_step
from train.pretrain.losses import FaceCLIPLoss, Targets
from train.pretrain.model import ProjectionHeads
from train.run.optim import KahanAdamW

pytestmark = pytest.mark.training

WORLDS = [1, 2, 4]
CHUNKS = [1, 3]
ROWS, TEXT_WIDTH = 12, 10
CONTEXT, PATCHES = 77, 144
UNREAD_IN_LAST_BLOCK = ("out_v_proj.weight", "out_v_proj.bias", "values_l_proj.weight", "values_l_proj.bias", "gamma_v")


class Pretraining(nn.Module):
    """The mini encoder's smaller branch with its training heads; what the loss does not reach is frozen."""

    def __init__(self, dropout: float):
        super().__init__()
        config = FaceCLIPConfig.preset("mini").only("l")
        branch = config.branches["l"]
        config = FaceCLIPConfig({"l": replace(branch, fusion=replace(branch.fusion, layers=2, dropout=dropout))})
        self.encoder = FaceCLIPEncoder(config)
        self.heads = ProjectionHeads(branch.width, CONTEXT, TEXT_WIDTH, branch.face.classes)
        trained = ("proj1.", "face_patch_proj.", "face_pos_proj.", "text_embed_proj.", "text_pos_proj.", "fuser.encoder.")
        for name, parameter in self.encoder.named_parameters():
            unread = "fuser.encoder.layers.1." in name or ("fusion_layers.1" in name and name.endswith(UNREAD_IN_LAST_BLOCK))
            parameter.requires_grad_(any(part in name for part in trained) and not unread)

    def forward(self, ids: Tensor, class_token: Tensor, patch_tokens: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        identity = Identity(class_token.unsqueeze(1), patch_tokens.unsqueeze(1), present, torch.zeros(1))
        return self.heads(self.encoder(ids, identity)["l"].fused)


def build(dropout: float = 0.1, dtype: torch.dtype = torch.float32) -> tuple[Pretraining, FaceCLIPLoss]:
    torch.manual_seed(0)
    model, loss = Pretraining(dropout), FaceCLIPLoss()
    with torch.no_grad():
        for name, parameter in model.encoder.named_parameters():
            if "gamma" in name:
                parameter.fill_(0.5)  # layer scales of 1e-4 would hide the face
            elif parameter.ndim > 1:
                parameter.normal_(0, 0.05)  # the towers' parameters are made empty
    return model.to(dtype), loss.to(dtype)


def batch(dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], Targets]:
    """The inputs and targets of all ranks: a guided row, equal people, equal captions."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    face = FaceCLIPConfig.preset("mini").branches["l"].face
    ids = torch.randint(1, 49000, (ROWS, CONTEXT), generator=generator)
    ids[:, 4], ids[:, -1] = 1014, 49407
    has_face = torch.tensor([1, 1, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0]).bool()  # with four ranks, the last one has no face
    people = torch.tensor([0, 1, -1, 0, 2, 3, 3, -1, 0, -1, -1, -1])
    captions = torch.tensor([0, 0, 1, 2, 3, 4, 5, 6, 0, 1, 7, 8])
    inputs = [ids, draw(ROWS, face.classes), draw(ROWS, PATCHES, face.width), has_face]
    return inputs, Targets(draw(ROWS, TEXT_WIDTH), draw(ROWS, face.classes), draw(ROWS, TEXT_WIDTH), has_face, people, captions)


def rows_of(targets: Targets, rows: slice) -> Targets:
    return Targets(*(getattr(targets, name)[rows] for name in Targets.__dataclass_fields__))


def own_rows(rank: int, world: int) -> slice:
    return slice(rank * ROWS // world, (rank + 1) * ROWS // world)


def split(inputs: list[Tensor], rows: slice, chunks: int) -> list[list[Tensor]]:
    return [list(chunk) for chunk in zip(*(x[rows].tensor_split(chunks) for x in inputs), strict=True)]


def seed(rank: int) -> None:
    torch.manual_seed(100 + rank)


def gradients(*modules: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for module in modules for p in module.parameters() if p.requires_grad and p.grad is not None]


def distributed_step(group: Any, chunks: int, early: bool = True) -> tuple[Tensor, list[Tensor]]:
    """The step as training does it, targets sent `early`, before the encoder
    runs: the loss and every gradient after it."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    model, loss = build()
    loss.group = group
    ddp = DistributedDataParallel(model, process_group=group)
    inputs, targets = batch()
    rows = own_rows(rank, world)
    targets = rows_of(targets, rows)
    keys = loss.start(targets) if early else targets
    seed(rank)
    value = gradcache_step(
        lambda chunk: ddp(*chunk),
        split(inputs, rows, chunks),
        lambda features: loss(*features, keys).total,
        ddp=ddp,
        loss_parameters=loss.parameters(),
        group=group,
    )
    return value, gradients(model, loss)


def five_steps(group: Any) -> list[Tensor]:
    """All trained weights after five steps in fp64, without dropout."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    model, loss = build(dropout=0.0, dtype=torch.float64)
    loss.group = group
    ddp = DistributedDataParallel(model, process_group=group)
    trained = [p for module in (model, loss) for p in module.parameters() if p.requires_grad]
    optimizer = KahanAdamW(trained, lr=1e-3)
    rows = own_rows(rank, world)
    inputs, targets = batch(torch.float64)
    targets = rows_of(targets, rows)
    for _ in range(5):
        optimizer.zero_grad()
        gradcache_step(
            lambda chunk: ddp(*chunk),
            split(inputs, rows, 2),
            lambda features: loss(*features, targets).total,
            ddp=ddp,
            loss_parameters=loss.parameters(),
            group=group,
        )
        optimizer.step()
    return [p.detach() for p in trained]


def on_every_world(rank: int, _: int) -> dict[Any, Any]:
    """(world, chunks) -> the step, ("trajectory", world) -> weights; the first ranks make the smaller worlds."""
    results: dict[Any, Any] = {}
    for world in WORLDS:
        group = dist.new_group(list(range(world)))
        if rank >= world:
            continue
        for chunks in CHUNKS:
            results[world, chunks] = distributed_step(group, chunks)
        if world <= 2:
            results["late", world] = distributed_step(group, CHUNKS[-1], early=False)
            results["trajectory", world] = five_steps(group)
    return results


@pytest.fixture(scope="module")
def by_rank(run_ranks: Callable) -> list[dict[Any, Any]]:
    return run_ranks(on_every_world, max(WORLDS))


def reference_step(world: int, chunks: int) -> tuple[Tensor, list[Tensor]]:
    """One process: every chunk of every rank with that rank's random numbers, all graphs kept, plain autograd."""
    model, loss = build()
    inputs, targets = batch()
    parts = []
    for rank in range(world):
        seed(rank)
        parts += [model(*chunk) for chunk in split(inputs, own_rows(rank, world), chunks)]
    text_like, identity_like = (torch.cat(features) for features in zip(*parts, strict=True))
    value = plain_loss(text_like, identity_like, targets, loss)
    value.backward()
    return value.detach(), gradients(model, loss)


def plain_loss(text_like: Tensor, identity_like: Tensor, targets: Targets, loss: FaceCLIPLoss) -> Tensor:
    """Equation 3 with its masks, through whole matrices of logits."""
    everybody, faces = torch.ones(ROWS).bool(), targets.has_face
    people, captions = targets.identity_label, targets.caption_label
    same_person = (people[:, None] == people) & (people >= 0)
    same_caption = captions[:, None] == captions
    same_both = same_caption & (same_person | ~(faces[:, None] | faces))
    terms = [
        ("image", text_like, targets.image, everybody, same_both),
        ("identity", identity_like, targets.identity, faces, same_person),
        ("text", text_like, targets.text, everybody, same_caption),
    ]
    total = torch.tensor(0.0)
    for name, queries, keys, valid, same in terms:
        assert keys is not None
        logits = loss.log_scale[name].exp() * F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).T
        logits = logits.masked_fill(same & ~torch.eye(ROWS).bool(), -math.inf)[valid][:, valid]
        rows = torch.arange(len(logits))
        total = total + (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, rows)) / 2
    return total


def distance(found: list[Tensor], expected: list[Tensor]) -> float:
    flat, other = (torch.cat([x.detach().flatten().double() for x in tensors]) for tensors in (found, expected))
    return ((flat - other).norm() / other.norm()).item()


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("world", WORLDS)
def test_step_has_the_gradient_of_the_whole_batch(by_rank: list[dict[Any, Any]], world: int, chunks: int) -> None:
    value, expected = reference_step(world, chunks)
    for results in by_rank[:world]:
        found_value, found = results[world, chunks]
        assert len(found) == len(expected) and all(gradient.any() for gradient in found)
        assert distance([found_value], [value]) <= 1e-5
        assert distance(found, expected) <= 1e-5
        assert distance(found[-3:], expected[-3:]) <= 1e-5  # the three temperatures


@pytest.mark.parametrize("world", [1, 2])
def test_sending_targets_while_the_encoder_computes_changes_no_bit(by_rank: list[dict[Any, Any]], world: int) -> None:
    for results in by_rank[:world]:
        (late, late_gradients), (early, early_gradients) = results["late", world], results[world, CHUNKS[-1]]
        assert torch.equal(early, late)
        assert all(torch.equal(a, b) for a, b in zip(early_gradients, late_gradients, strict=True))


def test_five_steps_are_the_same_on_one_and_on_two_ranks(by_rank: list[dict[Any, Any]]) -> None:
    one, first, second = by_rank[0]["trajectory", 1], by_rank[0]["trajectory", 2], by_rank[1]["trajectory", 2]
    started: list[Tensor] = [p for module in build(0.0, torch.float64) for p in module.parameters() if p.requires_grad]
    assert distance(one, started) > 1e-3
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert distance(first, one) <= 1e-10


def step_here(chunks: int) -> tuple[Tensor, list[Tensor]]:
    """The step in this process, nothing distributed."""
    model, loss = build()
    inputs, targets = batch()
    seed(0)
    value = gradcache_step(
        lambda chunk: model(*chunk), split(inputs, slice(ROWS), chunks), lambda features: loss(*features, targets).total
    )
    return value, gradients(model, loss)


@pytest.mark.parametrize("chunks", [1, 5])
def test_step_works_without_a_process_group_and_with_unequal_chunks(chunks: int) -> None:
    value, expected = reference_step(1, chunks)
    found_value, found = step_here(chunks)
    assert distance([found_value], [value]) <= 1e-5
    assert distance(found, expected) <= 1e-5


def test_without_replayed_dropout_the_gradient_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def nothing(_: Any):
        yield

    monkeypatch.setattr(gradcache.RandomState, "replayed", nothing)
    assert distance(step_here(3)[1], reference_step(1, 3)[1]) > 1e-2
