"""Seconds and memory that loading takes, for every format of the released files, in this pack's loaders.

    nice python benchmarks/loading.py --comfyui .dev/comfyui [--only unet encoder] [--folder FOLDER] [--markdown FILE]

It makes stand-ins of the released sizes and layouts (zeros, which load as any other values do), one at a
time, and deletes each afterwards: 5.2 GB of disk, and up to 11.5 GB of memory. Each load is a process of its
own. Of its memory are told

  peak: VmHWM, the most that was resident at once: the process's own memory and the parts of mapped files that
        are in it, although the system takes the latter back whenever it likes;
  own: the most of RssAnon, what is the process's own and nobody else can have;
  before: what was resident when Python, torch, ComfyUI and the pack were imported and nothing was loaded.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
FORMATS = {"pt": "torch's zip (.pt)", "old": "torch's old format (.pt)", "safetensors": "safetensors"}
KEPT = {"unet": ("fp16", "fp8_e4m3fn", "default"), "encoder": ("default", "fp16", "fp32")}
TITLE = {"unet": "UNet, 5.1 GB in fp16", "encoder": "encoder, 3.15 GB in bf16"}


def main(arguments: Sequence[str] | None = None) -> str:
    """Run the benchmark; print and return its table."""
    parser = argparse.ArgumentParser(description="Measure what loading the released files takes.")
    parser.add_argument("--comfyui", type=Path, default=ROOT / ".dev" / "comfyui", help="folder with ComfyUI's main.py")
    parser.add_argument("--only", nargs="+", choices=KEPT, default=list(KEPT), help="which files")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--folder", type=Path, help="where the stand-ins are made (default: the system's temporary folder)")
    parser.add_argument("--small", action="store_true", help="with files of some MB, to try the benchmark itself")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    options = parser.parse_args(arguments)
    lines = ["| file | format | kept in | seconds | peak, GB | own, GB | before, GB |", "|---|---|---|---:|---:|---:|---:|"]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for what in options.only:
            for layout in options.formats:
                path = Path(folder) / ("file.safetensors" if layout == "safetensors" else "file.pt")
                _in_process("make", what, layout, path, options)
                for kept in KEPT[what]:
                    found = json.loads(_in_process("load", what, kept, path, options).splitlines()[-1])
                    memory = " | ".join(f"{found[name] / 1e9:.2f}" for name in ("peak", "own", "before"))
                    kept = found["dtype"] if kept == "default" else kept
                    lines.append(f"| {TITLE[what]} | {FORMATS[layout]} | {kept} | {found['seconds']:.1f} | {memory} |")
                    print(lines[-1], flush=True)
                path.unlink()
    text = "\n".join(lines)
    if options.markdown:
        options.markdown.write_text(text + "\n")
    return text


def _in_process(job: str, what: str, how: str, path: Path, options: argparse.Namespace) -> str:
    """`make` or `load` in a process of its own; what it printed."""
    program = f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); import loading; loading.{job}(*sys.argv[1:])"
    command = [sys.executable, "-c", program, what, how, str(path), str(options.comfyui.absolute()), str(int(options.small))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"To {job} {what} ({how}) failed:\n{done.stderr[-3000:]}")
    return done.stdout


def make(what: str, layout: str, path: str, comfyui: str, small: str) -> None:
    """A stand-in of a released file."""
    shapes = _unet_shapes(small == "1") if what == "unet" else _encoder_shapes(small == "1")
    dtype = torch.float16 if what == "unet" else torch.bfloat16
    zeros = {name: torch.zeros(shape, dtype=dtype if floating else torch.int64) for name, (shape, floating) in shapes.items()}
    if layout == "safetensors":
        from safetensors.torch import save_file

        save_file(zeros, path)
    else:
        torch.save(zeros, path, _use_new_zipfile_serialization=layout == "pt")


def load(what: str, kept: str, path: str, comfyui: str, small: str) -> None:
    """Load a file as the pack's loader does; print what that took, as JSON."""
    sys.path.insert(0, comfyui)
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    pack = _pack()
    name = pack.__name__
    if what == "unet":
        module = importlib.import_module(f"{name}.nodes.unet_file")
        job: Callable[[], Any] = lambda: module.load_unet(Path(path), module.WEIGHT_DTYPES[kept])  # noqa: E731
    else:
        module = importlib.import_module(f"{name}.nodes.encoder_model")
        job = lambda: module.EncoderModel.from_file(Path(path), module.ENCODER_DTYPES[kept])  # noqa: E731
    before, own, done = _memory("VmRSS"), [0], threading.Event()
    watching = threading.Thread(target=lambda: _watch(own, done))
    watching.start()
    start = time.perf_counter()
    with torch.inference_mode():  # as ComfyUI runs nodes
        model = job()
    seconds = time.perf_counter() - start
    done.set()
    watching.join()
    dtype = str(model.model.get_dtype() if what == "unet" else model.dtype).removeprefix("torch.")
    told = {"seconds": seconds, "peak": _memory("VmHWM"), "own": max(own), "before": before, "dtype": dtype}
    print(json.dumps(told))


def _pack() -> Any:
    """This repository as ComfyUI loads it."""
    spec = importlib.util.spec_from_file_location("loaded_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _watch(own: list[int], done: threading.Event) -> None:
    while not done.wait(0.01):
        own.append(_memory("RssAnon"))


def _memory(what: str) -> int:
    """Bytes, as the system counts them for this process."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split(f"{what}:")[1].split()[0])


def _unet_shapes(small: bool) -> dict[str, tuple[tuple[int, ...], bool]]:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from faceclip.sdxl_files import UNET_CONFIG

    sizes = {"block_out_channels": (32, 64, 64), "attention_head_dim": (1, 1, 1), "cross_attention_dim": 80} if small else {}
    with torch.device("meta"):
        network = UNet2DConditionModel(**{**UNET_CONFIG, **sizes})
    return {name: (tuple(tensor.shape), True) for name, tensor in network.state_dict().items()}


def _encoder_shapes(small: bool) -> dict[str, tuple[tuple[int, ...], bool]]:
    from faceclip import FaceCLIPConfig, FaceCLIPEncoder
    from faceclip.ops import without_values

    with without_values():
        network = FaceCLIPEncoder(FaceCLIPConfig.preset("tiny" if small else "sdxl"))
    return {name: (tuple(tensor.shape), tensor.is_floating_point()) for name, tensor in network.state_dict().items()}


if __name__ == "__main__":
    main()
