"""How soon ComfyUI stops after Cancel, at a random moment in each of the
pack's nodes, with the encoder at full size.

    python benchmarks/cancel.py --rounds 5

The encoder's weights are random (2.6 GB in bf16 on the disk for the time of the run), those of the UNet zeros
in the layout of the release's (5.1 GB); sampling is the core's own. The graph runs twice to the end, the
faster of which is "whole"; then each round runs it anew, presses Cancel at a random part of that time, and
waits for the server to say that it has stopped.
"""

from __future__ import annotations

import argparse
import io
import random
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from encoder import random_encoder  # beside this file
from PIL import Image
from skimage import data

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # for the demo's server and client; last, since ComfyUI has a `nodes`


from demo.client import ComfyClient, GraphError, Prompt  # noqa: E402
from demo.scratch import scratch_server  # noqa: E402
from faceclip.sdxl_files import UNET_CONFIG  # noqa: E402

FACES = 8
LARGE = (4000, 3000)
ENCODER, UNET = "random_bf16.safetensors", "zeros_bf16.pt"
STAGES = {
    "load": ("Load FaceCLIP Encoder, 2.6 GB", "1"),
    "load_unet": ("Load FaceCLIP UNet, 5.1 GB, `.pt`", "11"),
    "detect": ("Detect Faces, a photo of 12 megapixels", "4"),
    "detect_none": ("Detect Faces, 12 megapixels without a face", "10"),
    "identity": (f"Encode Identity, {FACES} faces", "6"),
    "text": (f"FaceCLIP Text Encode, {FACES} people", "7"),
    "rank": (f"Rank by Face Similarity, {FACES} pictures", "9"),
}
"""What is measured: its title in the table, and its node."""


def main(arguments: Sequence[str] | None = None) -> str:
    """Run the benchmark; print and return its table."""
    parser = argparse.ArgumentParser(description="Measure how soon ComfyUI stops after Cancel in each node of the pack.")
    parser.add_argument("--rounds", type=int, default=5, help="cancelled runs of each node")
    parser.add_argument("--only", nargs="*", choices=list(STAGES), default=list(STAGES), help="which nodes")
    options = parser.parse_args(arguments)
    rows = []
    with scratch_server() as (server, base):
        client = ComfyClient(server.address)
        folder = base / "models" / "faceclip"
        folder.mkdir(exist_ok=True)
        random_encoder(torch.bfloat16, torch.device("cpu")).save(folder / ENCODER)
        if "load_unet" in options.only:
            save_unet(base / "models" / "diffusion_models" / UNET)
        photo = client.upload_photo("photo.png", png(Image.fromarray(data.astronaut()).resize(LARGE)))
        wall = client.upload_photo("wall.png", png(Image.effect_noise(LARGE, 40).convert("RGB")))
        small = client.upload_photo("small.png", png(Image.fromarray(data.astronaut())))
        for stage in options.only:
            chance = random.Random(stage)
            runs = [cancelled(client, graph(stage, number, photo, wall, small), STAGES[stage][1], None) for number in (-2, -1)]
            whole = min(seconds for _, seconds in runs)
            waits = []
            for number in range(options.rounds):
                delay = chance.uniform(0.0, 0.9) * whole
                stopped, _ = cancelled(client, graph(stage, number, photo, wall, small), STAGES[stage][1], delay)
                waits += [] if stopped is None else [stopped]
            rows.append((STAGES[stage][0], whole, waits))
    text = table(rows)
    print(text)
    return text


def save_unet(path: Path) -> None:
    """A UNet as the release's `unet.pt` has it."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    path.parent.mkdir(exist_ok=True)
    with torch.device("meta"):
        empty = UNet2DConditionModel(**UNET_CONFIG).state_dict()
    torch.save({name: torch.zeros(tensor.shape, dtype=torch.bfloat16) for name, tensor in empty.items()}, path)


def png(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG", compress_level=1)
    return content.getvalue()


def graph(stage: str, number: int, photo: str, wall: str, small: str) -> Prompt:
    """The pack's nodes in a row.

    What `stage` names is changed by `number`, so that it runs again, and nothing before it.
    """
    changed = {name: number if name == stage else -1 for name in STAGES}
    dtype = "bf16" if changed["load"] % 2 else "default"
    found = {"order": "largest", "index": 0, "count": 1, "on_no_face": "text only", "detector": ["3", 0]}
    nodes: Prompt = {
        "1": {"class_type": "FaceCLIPEncoderLoader", "inputs": {"encoder_name": ENCODER, "dtype": dtype}},
        "3": {"class_type": "FaceCLIPFaceDetectorLoader", "inputs": {"backend": "dlib", "pack": "buffalo_l", "provider": "auto"}},
        "8": {"class_type": "LoadImage", "inputs": {"image": small}},
    }
    shown = {"class_type": "PreviewAny", "inputs": {}}
    if stage == "load_unet":
        dtype = "bf16" if changed["load_unet"] % 2 else "default"
        loader = {"class_type": "FaceCLIPUNetLoader", "inputs": {"unet_name": UNET, "weight_dtype": dtype}}
        return {"11": loader, "20": {**shown, "inputs": {"source": ["11", 0]}}}
    if stage in ("detect", "detect_none"):
        picture, node = (photo, "4") if stage == "detect" else (wall, "10")
        sure = 0.5 + 0.001 * (2 + changed[stage])
        nodes["2"] = {"class_type": "LoadImage", "inputs": {"image": picture}}
        nodes[node] = {"class_type": "FaceCLIPDetectFaces", "inputs": {"image": ["2", 0], "min_confidence": sure, **found}}
        del nodes["1"], nodes["8"]
        return {**nodes, "20": {**shown, "inputs": {"source": [node, 4]}}}
    if stage == "rank":
        count = FACES + 2 + changed["rank"]
        nodes["5"] = {"class_type": "RepeatImageBatch", "inputs": {"image": ["8", 0], "amount": count}}
        compared = {"images": ["5", 0], "reference": ["8", 0], "judge": "dlib"}
        nodes["9"] = {"class_type": "FaceCLIPFaceSimilarity", "inputs": compared}
        del nodes["1"], nodes["3"]
        return {**nodes, "20": {**shown, "inputs": {"source": ["9", 1]}}}
    detected = {"image": ["8", 0], "min_confidence": 0.5, **found}
    nodes["4"] = {"class_type": "FaceCLIPDetectFaces", "inputs": detected}
    nodes["5"] = {"class_type": "RepeatImageBatch", "inputs": {"image": ["4", 0], "amount": FACES + 1 + changed["identity"]}}
    encoded = {"encoder": ["1", 0], "faces": ["5", 0], "combine": "batch"}
    nodes["6"] = {"class_type": "FaceCLIPEncodeIdentity", "inputs": encoded}
    words = {"prompt": f"a man on a beach {changed['text']}", "strength": 1.0, "width": 128, "height": 128, "long_prompts": "cut"}
    nodes["7"] = {"class_type": "FaceCLIPTextEncode", "inputs": {"encoder": ["1", 0], "identity": ["6", 0], **words}}
    return {**nodes, "20": {**shown, "inputs": {"source": ["7", 0]}}}


def cancelled(client: ComfyClient, prompt: Prompt, node: str, delay: float | None) -> tuple[float | None, float]:
    """Run a graph and cancel it `delay` s after `node` began (never, for
    None): seconds until it stopped, and those in the node.

    The first are None where the graph was done before.
    """
    pressed: list[float] = []
    timers: list[threading.Timer] = []

    def press() -> None:
        pressed.append(time.perf_counter())
        client.post("/interrupt", {})

    def follow(done: float, at: str) -> None:
        if at == node and delay is not None and not timers:
            timers.append(threading.Timer(delay, press))
            timers[0].start()

    try:
        run = client.run(prompt, follow)
    except GraphError as error:
        if "interrupted" not in str(error):
            raise
        return time.perf_counter() - pressed[0], 0.0
    for timer in timers:
        timer.cancel()
    return None, run.seconds.get(node, 0.0)


def table(rows: Sequence[tuple[str, float, Sequence[float]]]) -> str:
    lines = ["| node | whole, s | cancelled | stopped after, s (mean, longest) |", "|---|---|---|---|"]
    for title, whole, waits in rows:
        told = f"{sum(waits) / len(waits):.2f}, {max(waits):.2f}" if waits else "done before"
        lines.append(f"| {title} | {whole:.1f} | {len(waits)} | {told} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
