"""The demo itself: a photo goes through the real graph in a real ComfyUI; one contact sheet comes out.

`dev.py demo` prepares everything and calls this with the prepared interpreter.
"""

from __future__ import annotations

import argparse
import io
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from .client import ComfyClient, GraphError, GraphRun, Prompt
from .contact_sheet import Panel, Sheet, draw_sheet
from .graph import read_workflow, shown_pictures, to_prompt, with_photo
from .link import ROOT, link_pack, unlink_pack
from .photo import PhotoError, astronaut_photo, user_photo
from .progress import ProgressBar
from .server import ComfyServer, ServerError
from .stand_in import untrained

WORKFLOW = ROOT / "workflows" / "faceclip_mini_demo.json"
STAND_IN_NOTICE = (
    "The mini weights are stand-ins: deterministic, not trained. The pipeline is the real one (face detection, alignment, "
    "encoders, UNet, autoencoder), but this picture is not a portrait of anybody yet."
)


@dataclass(frozen=True)
class Pictures:
    """What the graph showed, in the order of the contact sheet."""

    faces: list[Image.Image]
    aligned: list[Image.Image]
    result: list[Image.Image]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit code. `arguments` as on the command line."""
    options = _parse(arguments)
    # A terminated demo must take its server with it: leave through the `finally`s.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        run_demo(options)
    except (PhotoError, ServerError, GraphError, FileExistsError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def run_demo(options: argparse.Namespace) -> Path:
    """Start ComfyUI, run the graph on the photo, draw the sheet; return the sheet's path."""
    content = user_photo(options.photo) if options.photo else astronaut_photo()
    name = f"faceclip_demo_{options.photo.stem}{options.photo.suffix}" if options.photo else "faceclip_demo_astronaut.png"
    options.out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as cleanup:
        link = link_pack(options.comfyui / "custom_nodes")
        if link and not options.keep:
            cleanup.callback(unlink_pack, link)
        server = ComfyServer(
            options.comfyui, options.server_python, options.out / "comfyui.log", options.server_argument, detached=options.keep
        )
        print(f"Starting ComfyUI ({options.comfyui}) ...", flush=True)
        began = time.monotonic()
        server.start()
        if not options.keep:
            cleanup.callback(server.stop)
        print(f"  ready after {time.monotonic() - began:.0f} s at {server.address}")
        sheet = _run_graph(ComfyClient(server.address), name, content, options.out)
    if options.keep:
        print(f"ComfyUI stays up at {server.address}; end it with: {server.kill_command}")
    return sheet


def _run_graph(client: ComfyClient, name: str, content: bytes, out: Path) -> Path:
    object_info = client.get("/object_info")
    prompt = with_photo(to_prompt(read_workflow(WORKFLOW), object_info), client.upload_photo(name, content))
    print(f"Running {WORKFLOW.relative_to(ROOT)} on {name} ...", flush=True)
    titles = {node_id: object_info[node["class_type"]]["display_name"] for node_id, node in prompt.items()}
    bar = ProgressBar()
    began = time.monotonic()
    run = client.run(prompt, lambda done, node_id: bar.show(done, titles.get(node_id, "done")))
    seconds = time.monotonic() - began
    bar.close()

    stand_ins = untrained(sorted((ROOT / "models").rglob("*.safetensors")))
    versions = _versions(client.get("/system_stats")["system"])
    page = draw_sheet(_words(prompt, seconds, versions, bool(stand_ins)), _panels(_pictures(client, prompt, run)))
    path = out / f"{Path(name).stem}.png"
    page.save(path)
    _report(run, titles, seconds, versions)
    if stand_ins:
        print(f"\nNote: {STAND_IN_NOTICE}")
    print(f"\nThe picture: {path}")
    return path


def _pictures(client: ComfyClient, prompt: Prompt, run: GraphRun) -> Pictures:
    shown: dict[str, list[Image.Image]] = {
        what: [
            Image.open(io.BytesIO(client.picture(reference)))
            for node_id in node_ids
            for reference in run.outputs.get(node_id, {}).get("images", [])
        ]
        for what, node_ids in shown_pictures(prompt).items()
    }
    return Pictures(**shown)


def _panels(pictures: Pictures) -> list[Panel]:
    def size(picture: Image.Image) -> str:
        return f"{picture.width} x {picture.height} px"

    panels = [Panel(picture, "the photo", f"its faces numbered, {size(picture)}") for picture in pictures.faces]
    panels += [Panel(picture, "the aligned face", size(picture)) for picture in pictures.aligned]
    return panels + [Panel(picture, "the result", size(picture)) for picture in pictures.result]


def _words(prompt: Prompt, seconds: float, versions: str, stand_in: bool) -> Sheet:
    texts = [
        node["inputs"]["prompt"]
        for node in prompt.values()
        if node["class_type"] == "FaceCLIPTextEncode" and "identity" in node["inputs"]
    ]
    footer = f"{WORKFLOW.name}, {seconds:.1f} s, {versions}"
    return Sheet("FaceCLIP", " / ".join(texts), footer, STAND_IN_NOTICE if stand_in else "")


def _report(run: GraphRun, titles: dict[str, str], seconds: float, versions: str) -> None:
    print(f"\nWhat ran: {len(run.seconds)} nodes in {seconds:.1f} s with {versions}")
    for node_id, spent in run.seconds.items():
        print(f"  {spent:6.2f} s  {titles[node_id]}")


def _versions(system: dict[str, Any]) -> str:
    python = system["python_version"].split()[0]
    return f"ComfyUI {system['comfyui_version']}, torch {system['pytorch_version']}, Python {python}"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="demo", description="Run the mini workflow on a photo in a real ComfyUI.")
    parser.add_argument("photo", nargs="?", type=Path, help="a photo with a face; scikit-image's astronaut without one")
    parser.add_argument("--comfyui", type=Path, required=True, help="folder with ComfyUI's main.py")
    parser.add_argument("--server-python", type=Path, default=Path(sys.executable), help="interpreter for ComfyUI")
    parser.add_argument("--server-argument", action="append", default=[], help="argument for ComfyUI's main.py; may repeat")
    parser.add_argument("--out", type=Path, default=ROOT / ".dev" / "demo", help="folder for the contact sheet and the log")
    parser.add_argument("--keep", action="store_true", help="leave the server up")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
