"""Make a UNet of a checkpoint: `python -m train.export RUN/checkpoints/step-00001000 OUT`.

OUT becomes a folder as a finished run's `unet`: what the step's moving average was, or with `--last` the
step's weights. A run may go on meanwhile. RUN itself stands for its newest checkpoint. Of a run with `--lora`
OUT is the LoRA's file, or with `--merge UNET` a folder of that UNet with the LoRA in its weights.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from faceclip.diffusers_config import built_by, read_config
from faceclip.ops import without_values
from faceclip.sdxl_files import load_unet, unet_config_beside

from .finetune_sdxl.diffusion import NoiseSchedule
from .finetune_sdxl.lora import lora_names, merge_lora, write_lora
from .finetune_sdxl.unet_files import write_unet
from .run.checkpointing import ResumeError, SavedState, checkpoint_at, steps_in
from .run.command_line import run_command
from .run.config import DTYPES


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 when finished, 1 for an error that it explains."""
    return run_command(lambda: _export(argv), OSError)


def _export(argv: Sequence[str] | None) -> None:
    parser = argparse.ArgumentParser(prog="python -m train.export", description="Make a UNet of a checkpoint of finetuning.")
    parser.add_argument("checkpoint", type=Path, help="a folder RUN/checkpoints/step-..., or RUN for its newest")
    parser.add_argument(
        "out", type=Path, help="folder to write: config.json and diffusion_pytorch_model.safetensors; of a LoRA, its file"
    )
    parser.add_argument("--last", action="store_true", help="the step's weights as they are, not their moving average")
    parser.add_argument("--unet-config", type=Path, help="the UNet's config.json, where the run's own files have moved")
    parser.add_argument("--merge", type=Path, metavar="UNET", help="write UNET (a folder or a file) with the run's LoRA in it")
    options = parser.parse_args(argv)
    checkpoint = newest(options.checkpoint)
    if _notes(checkpoint)["config"].get("lora"):
        export_lora(checkpoint, options.out, last=options.last, merge=options.merge, unet_config=options.unet_config)
        return
    if options.merge:
        raise ResumeError(f"{checkpoint} holds a whole UNet and no LoRA: leave --merge out.")
    export_unet(checkpoint, options.out, last=options.last, unet_config=options.unet_config)


def export_unet(checkpoint: Path, out: Path, *, last: bool = False, unet_config: Path | None = None) -> None:
    """Write a diffusers folder of a checkpoint's UNet, in the run's precision; on one process, in CPU memory.

    last: the step's weights, where the run keeps a moving average, too. unet_config: where not the run's own.
    Raises ResumeError for a folder that is no checkpoint of finetuning, or of another UNet.
    """
    notes = _notes(checkpoint)
    config = notes["config"]
    model = import_module("diffusers").UNet2DConditionModel
    shape = _shape(config, unet_config)
    described = read_config(shape)
    with built_by(shape), without_values():
        unet = model.from_config(described)
    saved = SavedState(checkpoint)
    kind = "ema" if config.get("ema", 0) and not last else "unet"
    expected = unet.state_dict()
    found = saved.read([f"{kind}.{name}" for name in expected])
    tensors = {}
    for name, empty in expected.items():
        tensor = found[f"{kind}.{name}"]
        if tensor.shape != empty.shape:
            raise ResumeError(
                f"{name} is {list(tensor.shape)} in {checkpoint}, and {list(empty.shape)} by the UNet's configuration {shape}. "
                "Give the run's own with --unet-config."
            )
        tensors[name] = tensor.to(DTYPES[config["dtype"]])
    write_unet(out, unet, tensors, _metadata(notes))
    _tell(out, kind, notes, tensors)


def export_lora(
    checkpoint: Path, out: Path, *, last: bool = False, merge: Path | None = None, unet_config: Path | None = None
) -> None:
    """Write the file of a checkpoint's LoRA, or with `merge` a diffusers folder of that UNet with the LoRA in it.

    The rest is as in `export_unet`. Raises ResumeError, too, for a file's name that does not end in .safetensors,
    and for a UNet of other layers.
    """
    notes = _notes(checkpoint)
    config = notes["config"]
    dtype = DTYPES[config["dtype"]]
    saved = SavedState(checkpoint)
    kind = "ema" if config.get("ema", 0) and not last else "lora"
    names = [name for name in lora_names(saved.shapes) if name.startswith(f"{kind}.")]
    weights = {name.removeprefix(f"{kind}."): tensor for name, tensor in saved.read(names).items()}
    if merge:
        unet = load_unet(merge, unet_config or config.get("unet_config") or unet_config_beside(merge), dtype)
        try:
            merged = merge_lora(unet.state_dict(), weights)
        except (KeyError, RuntimeError) as error:
            raise ResumeError(f"The LoRA of {checkpoint} does not fit the UNet {merge} ({error}). Give the run's own.") from error
        write_unet(out, unet, {name: tensor.to(dtype) for name, tensor in merged.items()}, _metadata(notes))
    elif out.suffix == ".safetensors":
        write_lora(out, weights, dtype, _metadata(notes))
    else:
        raise ResumeError(f"{checkpoint} holds a LoRA, which becomes one file: name it, for example {out}.safetensors.")
    _tell(out, kind, notes, weights)


def _metadata(notes: dict[str, Any]) -> dict[str, str]:
    config = notes["config"]
    schedule = NoiseSchedule.sdxl(config["prediction"], config.get("min_snr", 0.0), config["zero_terminal_snr"])
    return {"steps": str(notes["step"]), **schedule.metadata}


def _tell(out: Path, kind: str, notes: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    what = "moving average" if kind == "ema" else "weights"
    print(f"{out}: the {what} after step {notes['step']:,}, {sum(map(torch.Tensor.numel, tensors.values())) / 1e6:,.1f} M values")


def newest(path: Path) -> Path:
    """The checkpoint that a path stands for: itself, or the newest of a run. Raises ResumeError."""
    if (path / "run.json").is_file():
        return path
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    if not (steps := steps_in(folder)):
        raise ResumeError(f"There is no checkpoint at {path}: name a run's folder, or RUN/checkpoints/step-00001000.")
    return checkpoint_at(folder, steps[-1])


def _notes(checkpoint: Path) -> dict[str, Any]:
    try:
        notes = json.loads((checkpoint / "run.json").read_bytes())
        if {"dtype", "prediction", "zero_terminal_snr"} <= notes["config"].keys() and int(notes["step"]) >= 0:
            return notes
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResumeError(f"The checkpoint {checkpoint} is damaged: its run.json cannot be read ({error}).") from error
    raise ResumeError(f"{checkpoint} is a checkpoint of another kind of run: only those of train.finetune_sdxl hold a UNet.")


def _shape(config: dict[str, Any], given: Path | None) -> Any:
    """The configuration of the run's UNet: the one given, the run's, that of the UNet it began with, or SDXL base's."""
    if given or config.get("unet_config"):
        return given or config["unet_config"]
    start = Path(config.get("unet", ""))
    return str(start) if start.is_dir() else unet_config_beside(start)


if __name__ == "__main__":
    sys.exit(main())
