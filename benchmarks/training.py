"""Training's speed and memory, each next to the common way of doing the same, on one machine in one run.

    python benchmarks/training.py loss     our contrastive loss against open_clip's ClipLoss, at growing batch
    python benchmarks/training.py cache    samples per second of pretraining with and without cached features
    python benchmarks/training.py step     our pretraining step against a loop written by hand
    python benchmarks/training.py mfu      how much of the device pretraining uses, over batches and micro-batches
    python benchmarks/training.py sdxl     our SDXL step against plain code in the manner of diffusers' example
    python benchmarks/training.py encoder  the encoder's latency against that of as many operations in one product
    python benchmarks/training.py all      the first five; on a GPU at full size, else with the mini models
    python benchmarks/training.py gpu      what a GPU that is lent for ten minutes can tell: mfu and sdxl, each at two
                                           batches and with recomputed activations, and encoder

Contenders take turns, so that what else the machine does falls on all alike; numbers are medians, with the
range in brackets. Weights and pictures are random: time does not depend on them. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path

import encoder
import torch
import training_common
import training_loss
import training_mfu
import training_sdxl
import training_steps


def main(argv: Sequence[str] | None = None) -> str:
    """Measure, print and return the tables."""
    options = _complete(_parser().parse_args(argv))
    torch.set_num_threads(options.threads)
    parts = []
    for line in _lines(options) or [None]:
        part = _complete(_parser().parse_args([*line, *_shared(options)])) if line else options
        parts.append(part.measure(part))
        print(parts[-1], end="\n\n", flush=True)
    text = "\n\n".join(parts)
    if options.markdown:
        options.markdown.write_text(text + "\n")
    return text


def _lines(options: argparse.Namespace) -> list[list[str]]:
    """What `all` and `gpu` run, as command lines; nothing for one that runs itself."""
    full = options.size == "sdxl"
    if options.command == "gpu":
        batches, micro = (["512", "2048"], ["64", "256"]) if full else (["2", "4"], ["0", "2"])
        mfu = ["mfu", "--checkpointing", "--batches", *batches, "--micro-batches", *micro]
        return [mfu, ["sdxl", "--checkpointing", "--batches", "4", "8"], ["encoder"]]
    if options.command != "all":
        return []
    lines = [["loss"], ["cache"], ["step"], ["mfu"], ["sdxl"]]
    if full:
        memory_saving = ["mfu", "--checkpointing"]
        lines[4:4] = [memory_saving, [*memory_saving, "--compile"], [*memory_saving, "--branch", "g"]]
    return lines


def _shared(options: argparse.Namespace) -> list[str]:
    chosen = ["--peak", str(options.peak)] if options.peak else []
    chosen += ["--cpu-time"] if options.cpu_time else []
    if options.command == "gpu":
        chosen += ["--rounds", str(options.rounds), "--steps", str(options.steps), "--dtype", options.dtype]
    return ["--size", options.size, "--device", str(options.device), "--threads", str(options.threads), *chosen]


def _complete(options: argparse.Namespace) -> argparse.Namespace:
    """Fill in what depends on the device and the size."""
    gpu = options.device.type == "cuda"
    options.size = options.size or ("sdxl" if gpu else "mini")
    options.dtype = options.dtype or ("bf16" if gpu else "fp32")
    options.now = functools.partial(training_common.clock, options.device, options.cpu_time)
    full = options.size == "sdxl"
    fallbacks = {
        "loss": {"batches": [1024, 2048, 4096, 8192, *([16384, 32768] if gpu else [])]},
        "cache": {"batch": 256 if gpu else 16},
        "step": {"batch": 256 if gpu else 16},
        "mfu": {"batches": [512, 2048] if gpu else [16, 64], "micro_batches": [0, 64, 256] if gpu else [0, 8]},
        "sdxl": {"batches": [1, 4, 8, 16] if gpu else [1, 4], "pixels": training_sdxl.PIXELS[options.size]},
    }
    for name, value in fallbacks.get(options.command, {}).items():
        setattr(options, name, getattr(options, name) or value)
    if options.command == "sdxl" and options.checkpointing is None:
        options.checkpointing = full  # as the preset sdxl_1024
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    loss = commands.add_parser("loss", help="the contrastive loss against open_clip's ClipLoss")
    loss.add_argument("--batches", type=int, nargs="+", help="of all ranks together")
    loss.add_argument("--ranks", type=int, default=1)
    loss.add_argument("--chunk", type=int, default=1024, help="rows of logits that ours holds at a time")
    loss.set_defaults(measure=training_loss.measure)
    cache = commands.add_parser("cache", help="pretraining with and without cached features")
    cache.set_defaults(measure=training_steps.measure_cache)
    step = commands.add_parser("step", help="our pretraining step against a loop written by hand")
    step.set_defaults(measure=training_steps.measure_step)
    for command in (cache, step):
        command.add_argument("--batch", type=int)
    mfu = commands.add_parser("mfu", help="how much of the device pretraining uses")
    mfu.add_argument("--micro-batches", type=int, nargs="+", help="rows at once; 0 is the whole batch")
    mfu.add_argument("--checkpointing", action="store_true", help="recompute activations in backward")
    mfu.set_defaults(measure=training_mfu.measure)
    for command in (cache, step, mfu):
        command.add_argument("--branch", choices=("l", "g"), default="l", help="FaceCLIP-L or FaceCLIP-bigG")
    sdxl = commands.add_parser("sdxl", help="our SDXL step against plain code")
    sdxl.add_argument("--pixels", type=int, help="side of the pictures, a multiple of 64")
    sdxl.add_argument("--ema", type=float, default=0.0, help="decay of a moving average in all contenders; 0 keeps none")
    sdxl.add_argument("--checkpointing", action=argparse.BooleanOptionalAction, help="recompute activations in backward")
    sdxl.set_defaults(measure=training_sdxl.measure)
    for command in (mfu, sdxl):
        command.add_argument("--batches", type=int, nargs="+")
        command.add_argument("--compile", action="store_true", help="torch.compile the model, ours alone")
    latency = commands.add_parser("encoder", help="the encoder's latency")
    latency.set_defaults(measure=encoder.measure_latency)
    every = commands.add_parser("all", help="loss, cache, step, mfu and sdxl")
    short = commands.add_parser("gpu", help="mfu, sdxl and encoder, in ten minutes on a GPU")
    for command in (loss, cache, step, mfu, sdxl, latency, every, short):
        _add_shared(command, steps={"sdxl": 3, "mfu": 3, "gpu": 3}.get(command.prog.split()[-1], 10))
    return parser


def _add_shared(command: argparse.ArgumentParser, steps: int) -> None:
    gpu = torch.cuda.is_available()
    command.add_argument("--device", type=torch.device, default=torch.device("cuda" if gpu else "cpu"))
    command.add_argument("--size", choices=("mini", "sdxl"), help="of the models: sdxl is the full size (default on a GPU)")
    command.add_argument("--dtype", choices=("fp32", "bf16"), help="default: bf16 on a GPU, fp32 on a CPU")
    command.add_argument("--threads", type=int, default=torch.get_num_threads())
    command.add_argument(
        "--cpu-time", action="store_true", help="count this process's CPU seconds: for a busy machine, one thread"
    )
    command.add_argument("--rounds", type=int, default=3, help="turns of each contender")
    command.add_argument("--steps", type=int, default=steps, help="steps of a turn")
    command.add_argument("--peak", type=float, default=0.0, help="the device's peak in TFLOP/s, from its data sheet")
    command.add_argument("--markdown", type=Path, help="also write the tables to this file")


if __name__ == "__main__":
    main()
