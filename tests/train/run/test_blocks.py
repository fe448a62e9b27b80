"""torch.compile changes neither loss nor gradient, together with everything that surrounds a model in training."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
import torch.distributed as dist
from torch import Tensor
from torch._dynamo.utils import counters
from torch.nn.parallel import DistributedDataParallel

from train.finetune_sdxl import command as finetune_sdxl
from train.finetune_sdxl.config import FinetuneConfig
from train.pretrain import command as pretrain
from train.pretrain.config import PretrainConfig
from train.run.command_line import parse
from train.run.ranks import Ranks

MODELS = Path(__file__).resolve().parents[3] / "models" / "faceclip"
ONE = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture
def backend() -> str:
    """What follows tracing: run as plain operations."""
    return "eager"


@pytest.fixture(autouse=True)
def _fast_backend(monkeypatch: pytest.MonkeyPatch, backend: str) -> Iterator[None]:
    """All of torch.compile but the generated kernels, which take minutes on a CPU."""
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda forward, **_: compile(forward, backend=backend))
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def in_ddp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process group of this process alone, so that models are wrapped in DistributedDataParallel as on many ranks."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    wrap = functools.partial(DistributedDataParallel, broadcast_buffers=False, gradient_as_bucket_view=True)
    for module in ("train.pretrain.task", "train.finetune_sdxl.task"):
        monkeypatch.setattr(f"{module}.wrap", lambda model, ranks: wrap(model))
    yield
    dist.destroy_process_group()


def step(command: Any, config: Any) -> tuple[float, Tensor]:
    """The loss and the gradient of the first step, with the same random numbers each time."""
    task = command.build(config, ONE)
    batch = task.batch(0)
    torch.manual_seed(3)
    values = task.backward(batch, 0)
    return values["loss"], torch.cat([parameter.grad.flatten() for parameter in task.parameters])


def require_same(command: Any, config: Callable[..., Any], most_graphs: int) -> None:
    (plain, gradient), (compiled, found) = (step(command, config(compile=on)) for on in (False, True))
    assert compiled == pytest.approx(plain, rel=1e-6)
    assert (found - gradient).norm() <= 1e-6 * gradient.norm() and gradient.norm() > 0
    assert not counters["graph_break"]
    # One graph per kind of block, pass and set of shapes; one per block would be many more.
    assert 0 < counters["stats"]["unique_graphs"] <= most_graphs


@pytest.mark.usefixtures("in_ddp")
def test_pretraining_compiled_is_pretraining(pretrain_arguments: Callable[..., list[str]]) -> None:
    """With GradCache, dropout that its second pass must draw again, and recomputed activations."""

    def config(**more: Any) -> PretrainConfig:
        return parse(PretrainConfig, pretrain_arguments(micro_batch=2, activation_checkpointing=True, dropout=0.2, **more))

    require_same(pretrain, config, most_graphs=14)


@pytest.mark.training
@pytest.mark.parametrize("backend", ["aot_eager"])  # split into forward and backward before that
@pytest.mark.usefixtures("in_ddp")
def test_finetuning_compiled_is_finetuning(shards: Path, vae: Path, unet: Path, tmp_path: Path) -> None:
    def config(**more: Any) -> FinetuneConfig:
        files = {"encoder": MODELS / "faceclip_mini_encoder.safetensors", "unet": unet}
        options = {"config": "mini_sdxl", "data": shards, "vae": vae, "out": tmp_path / "run", **files, "batch-size": 4}
        flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        flags += ["--compile"] if more["compile"] else []
        return parse(FinetuneConfig, [*flags, "--micro-batch", "2", "--activation-checkpointing"])

    require_same(finetune_sdxl, config, most_graphs=8)
