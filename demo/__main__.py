"""The demo itself: faces go through the real graph in a real ComfyUI; one contact sheet comes out.

`dev.py demo` prepares everything and calls this with the prepared interpreter.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from .client import ComfyClient, GraphError, Prompt
from .contact_sheet import Panel, Sheet, draw_sheet
from .graph import read_workflow, shown_pictures, template, to_prompt, with_photo, with_previews, with_words
from .judging import JudgeError, likeness
from .link import ROOT, link_pack, unlink_pack
from .photo import PhotoError, user_photo
from .progress import ProgressBar
from .server import ComfyServer, ServerError

WORKFLOW = template("Mini demo")
PEOPLE = (ROOT / "models" / "people" / "ada.jpg", ROOT / "models" / "people" / "ben.jpg")
"""Two people that the mini model was not trained on. Pictures made of
the second show how much the reference matters."""
PROMPTS = (
    "a close-up of a person smiling on a sandy beach by the sea, wearing a red hoodie",
    "a portrait of a person wearing a blue suit and a yellow tie in front of bookshelves, turned to the left",
    "a close-up portrait of a person with a surprised face in a green sweater with a straw hat in front of snowy mountains",
    "a portrait of a person in an orange t-shirt with round black glasses in outer space, with stars and a planet",
)
"""In the words of the world that the mini model knows: expressions, turns, places, clothes."""
PHOTO_NOTICE = (
    "The mini model has seen drawn people only. It draws everybody, and a photographed person it knows by little more than "
    "their colours. For portraits of real people, get the released weights (README)."
)


@dataclass(frozen=True)
class Shown:
    """What the graph showed of one person, and how long it took."""

    photo: Path
    faces: Image.Image
    aligned: Image.Image
    results: list[Path]
    """A picture for each of `PROMPTS`."""
    node_seconds: dict[str, float]
    """By node id, the first prompt's run."""
    seconds: float
    """Of all runs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit code. `arguments` as on the command line."""
    options = _parse(arguments)
    # A terminated demo must take its server with it: leave through the `finally`s.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        run_demo(options)
    except (PhotoError, ServerError, GraphError, JudgeError, FileExistsError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def run_demo(options: argparse.Namespace) -> Path:
    """Start ComfyUI, run the graph on the photo or on the drawn people, draw the sheet; return the sheet's path."""
    photos = [options.photo] if options.photo else list(PEOPLE)
    contents = [user_photo(photo, options.server_python) for photo in photos]
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
        client = ComfyClient(server.address)
        object_info = client.get("/object_info")
        prompt = with_previews(to_prompt(read_workflow(WORKFLOW), object_info))
        people = [_run_graph(client, prompt, object_info, *pair, options.out) for pair in zip(photos, contents, strict=True)]
        versions = _versions(client.get("/system_stats")["system"])
    scores = None if options.photo else _scores(people, options.server_python)
    page = draw_sheet(_words(people, versions, scores is not None), _panels(people, scores))
    sheet = options.out / f"faceclip_demo{'_' + options.photo.stem if options.photo else ''}.png"
    page.save(sheet)
    print(f"\nWith {versions}")
    if options.photo:
        print(f"Note: {PHOTO_NOTICE}")
    print(f"The picture: {sheet}")
    if options.keep:
        print(f"ComfyUI stays up at {server.address}; end it with: {server.kill_command}")
    return sheet


def _run_graph(client: ComfyClient, prompt: Prompt, object_info: dict[str, Any], photo: Path, content: bytes, out: Path) -> Shown:
    """The graph once for each of `PROMPTS`; all but the first find face and identity in ComfyUI's cache."""
    prompt = with_photo(prompt, client.upload_photo(f"faceclip_demo_{photo.name}", content))
    titles = {node_id: object_info[node["class_type"]]["display_name"] for node_id, node in prompt.items()}
    shown = shown_pictures(prompt)
    began, runs, results = time.monotonic(), [], []
    for number, words in enumerate(PROMPTS, start=1):
        print(f"{photo.stem}, {number} of {len(PROMPTS)}: {words}", flush=True)
        bar = ProgressBar()
        run = client.run(with_words(prompt, words), lambda done, node_id, bar=bar: bar.show(done, titles.get(node_id, "done")))
        bar.close()
        runs.append(run)
        results.append(out / f"{photo.stem}_{number}.png")
        client.pictures(run, shown["result"])[0].save(results[-1])
    found = Shown(
        photo,
        client.pictures(runs[0], shown["faces"])[0],
        client.pictures(runs[0], shown["aligned"])[0],
        results,
        runs[0].seconds,
        time.monotonic() - began,
    )
    _report(found, titles)
    return found


def _scores(people: Sequence[Shown], python: Path) -> list[list[list[float]]]:
    """[people][prompts][people]: the judge's likeness of every picture to every person."""
    pictures = [path for person in people for path in person.results]
    flat = likeness([person.photo for person in people], pictures, python)
    scores = [flat[start : start + len(PROMPTS)] for start in range(0, len(flat), len(PROMPTS))]
    for person, rows in zip(people, scores, strict=True):
        told = ", ".join(f"to {other.photo.stem} {_mean(row[k] for row in rows):.2f}" for k, other in enumerate(people))
        print(f"Pictures made of {person.photo.stem}: mean likeness {told}")
    return scores


def _panels(people: Sequence[Shown], scores: list[list[list[float]]] | None) -> list[list[Panel]]:
    """A row for each person: the photo, the crop, the pictures with what the judge says of them."""

    def size(picture: Image.Image) -> str:
        return f"{picture.width} x {picture.height} px"

    rows = []
    for number, person in enumerate(people):
        name = person.photo.stem
        row = [
            Panel(person.faces, f"{name}, the reference" if scores else name, "faces numbered, " + size(person.faces)),
            Panel(person.aligned, "aligned", size(person.aligned)),
        ]
        for prompt, path in enumerate(person.results):
            picture = Image.open(path)
            told = size(picture)
            if scores:
                told = ", ".join(f"to {other.photo.stem} {scores[number][prompt][k]:.2f}" for k, other in enumerate(people))
            row.append(Panel(picture, f"made of {name}" if scores else "made", f"likeness {told}" if scores else told))
        rows.append(row)
    return rows


def _words(people: Sequence[Shown], versions: str, judged: bool) -> Sheet:
    footer = f"{WORKFLOW.name}, {sum(person.seconds for person in people):.1f} s, {versions}"
    return Sheet("FaceCLIP", ["The photo", "The face in it", *PROMPTS], footer, _judged_notice() if judged else PHOTO_NOTICE)


def _judged_notice() -> str:
    """How to read the likeness: what a real picture gets, and what the model gets on many people."""
    stages = json.loads((ROOT / "models" / "figures.json").read_text(encoding="utf-8"))["stages"]
    found = next(stage["found"] for stage in stages if stage["stage"] == "measure")
    real, own, other = (found[name]["face"] for name in ("real", "person", "shuffled"))
    return (
        "The model was trained on neither person. Likeness is the cosine of two pictures by a judge that has no part in its "
        f"training. Of 100 such people: two pictures of one person {real:.2f}, made of the person {own:.2f}, of another "
        f"{other:.2f}. The mini model's pictures are 128 px; they are enlarged here."
    )


def _mean(values: Any) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def _report(found: Shown, titles: dict[str, str]) -> None:
    print(f"What ran for the first of them: {len(found.node_seconds)} nodes; all prompts together took {found.seconds:.1f} s")
    for node_id, spent in found.node_seconds.items():
        print(f"  {spent:6.2f} s  {titles[node_id]}")


def _versions(system: dict[str, Any]) -> str:
    python = system["python_version"].split()[0]
    return f"ComfyUI {system['comfyui_version']}, torch {system['pytorch_version']}, Python {python}"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="demo", description="Run the mini workflow in a real ComfyUI.")
    parser.add_argument("photo", nargs="?", type=Path, help="a photo with a face; two drawn people without one")
    parser.add_argument("--comfyui", type=Path, required=True, help="folder with ComfyUI's main.py")
    parser.add_argument("--server-python", type=Path, default=Path(sys.executable), help="interpreter for ComfyUI")
    parser.add_argument("--server-argument", action="append", default=[], help="argument for ComfyUI's main.py; may repeat")
    parser.add_argument("--out", type=Path, default=ROOT / ".dev" / "demo", help="folder for the contact sheet and the log")
    parser.add_argument("--keep", action="store_true", help="leave the server up")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
