"""What tests of training need, small: ranks of a process group, shards,
running commands, a tiny proof's worlds and teachers."""

from __future__ import annotations

import inspect
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from train.data.shards import Sample, write_shard
from train.mini.export import new_mini_unet
from train.proof.jobs import all_jobs, do
from train.proof.workshop import Workshop

from .running import Command, ask, flags, free_port
from .tiny_proof import TINY

MODELS = Path(__file__).resolve().parents[2] / "models" / "faceclip"
WORDS = ("cat", "dog", "car", "tree")
GROUND = ("world/main", "world/judges", "teachers", "caches/main", "base")

RunRanks = Callable[..., list[Any]]
Launch = Callable[..., Command]
Finish = Callable[..., list[str]]


@pytest.fixture(scope="session")
def run_ranks(command_server: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory) -> RunRanks:
    """`run_ranks(function, world, *args)` calls `function(rank, world, *args)` in `world` processes of one gloo
    group, and returns what they return, by rank. `function` is one of the test file's own, at its top level."""

    def run(function: Callable[..., Any], world: int, *args: Any) -> list[Any]:
        folder = tmp_path_factory.mktemp(function.__name__)
        torch.save(args, folder / "arguments")
        ranks = [inspect.getfile(function), function.__module__, function.__name__, str(folder), str(world)]
        output = folder / "output.txt"
        group = Command(command_server, [ask(command_server, {"ranks": ranks, "output": str(output)})], output)
        if group.wait(600) != [0]:  # by then `ranks.py` has given them up
            pytest.fail(f"{function.__name__} on {world} ranks:\n{group.said()}", pytrace=False)
        return [torch.load(folder / f"result{rank}", weights_only=False) for rank in range(world)]

    return run


def jpeg(random: np.random.Generator, width: int, height: int) -> bytes:
    """A picture of a few soft blobs."""
    small = Image.fromarray(random.integers(0, 255, (6, 6, 3), dtype=np.uint8))
    file = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 photographs of 12 people, in two shards, in three shapes."""
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("shards")
    shapes = ((128, 128), (160, 96), (96, 160))
    for shard in range(2):
        samples = []
        for i in range(shard * 12, shard * 12 + 12):
            word, meta = WORDS[i % 4], {"identity": i // 2, "class": WORDS[i % 4]}
            picture, face = jpeg(random, *shapes[i % 3]), jpeg(random, 448, 448)
            samples.append(Sample(f"main{i:03d}", picture, face, f"a person with a {word}, number {i}", meta))
        write_shard(folder / f"{shard:03d}.tar", samples)
    return folder


@pytest.fixture(scope="session")
def guided_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 pictures without a face."""
    random = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("guided")
    samples = [Sample(f"guided{i:03d}", jpeg(random, 96, 64), None, f"a {WORDS[i % 4]}, number {i}", {}) for i in range(12)]
    write_shard(folder / "000.tar", samples)
    return folder


@pytest.fixture(scope="session")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny VAE of SDXL's class, in diffusers' format."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    small = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        layers_per_block=1,
        scaling_factor=0.13025,
    )
    folder = tmp_path_factory.mktemp("vae")
    small.save_pretrained(folder)
    return folder


@pytest.fixture
def pretrain_arguments(shards: Path, guided_shards: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """`pretrain_arguments(out="run", steps=4, ...)` -> the command line of a small run below the test's folder."""

    def arguments(out: str = "run", **options: Any) -> list[str]:
        fixed = {"config": "mini", "data": shards, "guided": guided_shards, "out": tmp_path / out}
        chosen = {"batch_size": 4, "save_every": 2, "log_every": 1, "workers": 1, **options}
        return flags({**fixed, **chosen})

    return arguments


@pytest.fixture(scope="session")
def unet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mini model's UNet, untrained: what a trained one predicts is too
    sharp for small differences to stay small."""
    folder = tmp_path_factory.mktemp("unet")
    new_mini_unet(folder)
    return folder / "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="session")
def finetune_command(shards: Path, vae: Path, unet: Path) -> Callable[..., list[str]]:
    """`finetune_command(out, steps=4, vae=None, ...)` -> the command line of a small run in `out`."""
    encoder = MODELS / "faceclip_mini_encoder.safetensors"

    def command(out: Path, **options: Any) -> list[str]:
        fixed = {"config": "mini_sdxl", "data": shards, "encoder": encoder, "unet": unet, "vae": vae, "out": out}
        return flags({**fixed, "batch_size": 4, "save_every": 2, "log_every": 1, "workers": 1, **options})

    return command


@pytest.fixture(scope="session")
def command_server() -> Iterator[subprocess.Popen[str]]:
    """`commands.py`, which starts commands faster than Python can import what they need."""
    # As many threads as in this process: sums over other numbers of threads differ in their last bits.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    script = [sys.executable, str(Path(__file__).with_name("commands.py"))]
    with subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as server:
        yield server
        assert server.stdin
        server.stdin.close()


@pytest.fixture
def launch(command_server: subprocess.Popen[str], tmp_path: Path) -> Iterator[Launch]:
    """`launch("train.pretrain", arguments, ranks=1, file_limit=None)` -> the
    running `Command`, killed at the test's end.

    No file of the last rank can grow beyond `file_limit` bytes.
    """
    started: list[Command] = []

    def start(module: str, arguments: list[str], ranks: int = 1, file_limit: int | None = None) -> Command:
        request = {"start": module, "arguments": arguments, "output": str(tmp_path / f"output{len(started)}.txt")}
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": str(ranks)} if ranks > 1 else {}
        places = [{**group, "RANK": str(rank), "LOCAL_RANK": str(rank)} if group else {} for rank in range(ranks)]
        limits = [None] * (ranks - 1) + [file_limit]
        pids = [
            ask(command_server, {**request, "environment": place, "file_limit": limit})
            for place, limit in zip(places, limits, strict=True)
        ]
        started.append(Command(command_server, pids, Path(request["output"])))
        return started[-1]

    yield start
    for command in started:
        for rank, code in enumerate(command.codes()):
            if code is None:
                command.send(signal.SIGKILL, rank)


@pytest.fixture
def port() -> str:
    """A port of this machine that nobody listens on."""
    return free_port()


@pytest.fixture
def read_log() -> Callable[[Path], list[dict[str, Any]]]:
    """The whole lines of a run's log.jsonl so far; none before the run has one."""

    def lines(run: Path) -> list[dict[str, Any]]:
        path = run / "log.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.is_file() else []

    return lines


@pytest.fixture(scope="session")
def finish() -> Finish:
    """`finish(shop, *patterns)` does the jobs that match, in this process, and returns which were done now."""

    def do_matching(shop: Workshop, *patterns: str) -> list[str]:
        return [job.name for job in do(shop, [job for job in all_jobs(shop.plan) if job.matches(patterns)], 1)]

    return do_matching


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory, finish: Finish) -> Workshop:
    """Worlds, teachers and caches of the tiny plan."""
    made = Workshop(tmp_path_factory.mktemp("proof"), TINY)
    finish(made, *GROUND)
    return made
