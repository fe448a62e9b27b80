"""Seconds and memory that loading takes, for every format of the released files, in this pack's loaders.

    nice python benchmarks/loading.py --comfyui .dev/comfyui [--only unet encoder graph] [--folder FOLDER] [--markdown FILE]

It makes stand-ins of the released sizes and layouts (zeros, which load as any other values do), one at a
time, and deletes each afterwards: 5.2 GB of disk (8.7 for `graph`), and up to 11.5 GB of memory (15). Each
load is a process of its own. `graph` is all that the workflow of a portrait has in memory: the three models
of Load FaceCLIP, a face, two prompts, one step of 256 px with CFG, and the decoded picture. Of a process's
memory are told

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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
FORMATS = {"pt": "torch's zip (.pt)", "old": "torch's old format (.pt)", "safetensors": "safetensors"}
KEPT = {
    "unet": ("fp16", "fp8_e4m3fn", "default"),
    "encoder": ("default", "fp16", "fp32"),
    "graph": ("fp8_e4m3fn", "fp16", "default"),  # the UNet
}
TITLE = {"unet": "UNet, 5.1 GB in fp16", "encoder": "encoder, 3.15 GB in bf16", "graph": "whole graph, UNet"}
FILES = {"unet": ("unet",), "encoder": ("encoder",), "graph": ("unet", "encoder", "vae.safetensors")}


def main(arguments: Sequence[str] | None = None) -> str:
    """Run the benchmark; print and return its table."""
    parser = argparse.ArgumentParser(description="Measure what loading the released files takes.")
    parser.add_argument("--comfyui", type=Path, default=ROOT / ".dev" / "comfyui", help="folder with ComfyUI's main.py")
    parser.add_argument("--only", nargs="+", choices=KEPT, default=list(KEPT), help="which files")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--kept", nargs="+", help="what the weights are kept in (default: all that are listed)")
    parser.add_argument("--folder", type=Path, help="where the stand-ins are made (default: the system's temporary folder)")
    parser.add_argument("--small", action="store_true", help="with files of some MB, to try the benchmark itself")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    options = parser.parse_args(arguments)
    lines = ["| file | format | kept in | seconds | peak, GB | own, GB | before, GB |", "|---|---|---|---:|---:|---:|---:|"]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for what in options.only:
            for layout in options.formats:
                for name in FILES[what]:
                    _in_process("make", name, layout, Path(folder) / name, options)
                for kept in (kept for kept in KEPT[what] if not options.kept or kept in options.kept):
                    found = json.loads(_in_process("load", what, kept, Path(folder), options).splitlines()[-1])
                    memory = " | ".join(f"{found[name] / 1e9:.2f}" for name in ("peak", "own", "before"))
                    kept = found["dtype"] if kept == "default" else kept
                    lines.append(f"| {TITLE[what]} | {FORMATS[layout]} | {kept} | {found['seconds']:.1f} | {memory} |")
                    print(lines[-1], flush=True)
                for name in FILES[what]:
                    (Path(folder) / name).unlink()
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
    if what == "vae.safetensors":  # as it is released, whatever the others are
        shapes, dtype, layout = _vae_shapes(comfyui), torch.float32, "safetensors"
    elif what == "unet":
        shapes, dtype = _unet_shapes(small == "1"), torch.float16
    else:
        shapes, dtype = _encoder_shapes(small == "1"), torch.bfloat16
    zeros = {name: torch.zeros(shape, dtype=dtype if floating else torch.int64) for name, (shape, floating) in shapes.items()}
    if layout == "safetensors":
        from safetensors.torch import save_file

        save_file(zeros, path)
    else:
        torch.save(zeros, path, _use_new_zipfile_serialization=layout == "pt")


def load(what: str, kept: str, folder: str, comfyui: str, small: str) -> None:
    """Load files as the pack's loaders do; print what that took, as JSON."""
    sys.path.insert(0, comfyui)
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    pack = _pack().__name__
    encoders, unets = (importlib.import_module(f"{pack}.nodes.{name}") for name in ("encoder_model", "unet_file"))
    here = Path(folder)
    before, own, done = _memory("VmRSS"), [0], threading.Event()
    watching = threading.Thread(target=lambda: _watch(own, done), daemon=True)
    watching.start()
    start = time.perf_counter()
    with torch.inference_mode():  # as ComfyUI runs nodes
        if what == "encoder":
            dtype = encoders.EncoderModel.from_file(here / "encoder", encoders.ENCODER_DTYPES[kept]).dtype
        elif what == "unet":
            dtype = unets.load_unet(here / "unet", unets.WEIGHT_DTYPES[kept]).model.get_dtype()
        else:
            encoder = encoders.EncoderModel.from_file(here / "encoder", None)
            unet = unets.load_unet(here / "unet", unets.WEIGHT_DTYPES[kept])
            dtype = unet.model.get_dtype()
            _picture(encoder, unet, here / "vae.safetensors")
    seconds = time.perf_counter() - start
    done.set()
    watching.join()
    told = {"seconds": seconds, "peak": _memory("VmHWM"), "own": max(own), "before": before}
    print(json.dumps({**told, "dtype": str(dtype).removeprefix("torch.")}))


def _picture(encoder: Any, unet: Any, vae: Path) -> None:
    """A face and two prompts, one step with both, and what comes of it, decoded."""
    import comfy.sample
    import comfy.sd
    import comfy.utils

    decoder = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(vae), safe_load=True))
    identity = encoder.encode_faces(torch.rand(1, 448, 448, 3))
    prompts = encoder.encode_with_negative("a person on a beach", "blurred", identity)
    positive, negative = ([[found.embeddings, {"pooled_output": found.pooled}]] for found in prompts)
    latent = torch.zeros(1, 4, 32, 32)
    noise = comfy.sample.prepare_noise(latent, 0)
    made = comfy.sample.sample(unet, noise, 1, 5.0, "euler", "normal", positive, negative, latent, disable_pbar=True)
    decoder.decode(made)


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
    if small:
        sizes["projection_class_embeddings_input_dim"] = 48 + 6 * 256  # pooled state and sizes
    with torch.device("meta"):
        network = UNet2DConditionModel(**{**UNET_CONFIG, **sizes})
    return {name: (tuple(tensor.shape), True) for name, tensor in network.state_dict().items()}


def _encoder_shapes(small: bool) -> dict[str, tuple[tuple[int, ...], bool]]:
    from faceclip import FaceCLIPConfig, FaceCLIPEncoder
    from faceclip.ops import without_values

    with without_values():
        network = FaceCLIPEncoder(FaceCLIPConfig.preset("tiny" if small else "sdxl"))
    return {name: (tuple(tensor.shape), tensor.is_floating_point()) for name, tensor in network.state_dict().items()}


def _vae_shapes(comfyui: str) -> dict[str, tuple[tuple[int, ...], bool]]:
    """SDXL's, beside small files as well: the core knows no other size."""
    sys.path.insert(0, comfyui)
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    from comfy.ldm.models.autoencoder import AutoencoderKL

    sizes = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128}
    sizes |= {"ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}
    with torch.device("meta"):
        network = AutoencoderKL(ddconfig=sizes, embed_dim=4)
    return {name: (tuple(tensor.shape), True) for name, tensor in network.state_dict().items()}


if __name__ == "__main__":
    main()
