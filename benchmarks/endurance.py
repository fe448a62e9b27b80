"""Hundreds of prompts with changing people, queued at once: does a
ComfyUI with the pack keep its memory, and its pictures?

    python benchmarks/endurance.py --prompts 500

Runs the mini workflow on a ComfyUI of its own. Every prompt has another person than the one before, so that
the whole chain runs each time: detection, face tower, encoder, UNet, VAE. Every combination of person and
words comes back many times, and its picture must be the first one's, bit for bit. Memory is what the process
holds (RSS) when a prompt is done.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # for the demo's server and client; last, since ComfyUI has a `nodes`

from demo.client import ComfyClient, GraphRun, Prompt  # noqa: E402
from demo.graph import read_workflow, shown_pictures, template, to_prompt, with_photo, with_words  # noqa: E402
from demo.scratch import scratch_server  # noqa: E402
from faceclip.face import load_detector  # noqa: E402
from train.synthetic.portrait import World  # noqa: E402

WORKFLOW = template("Mini demo")
PEOPLE = 10
WORDS = (
    "a close-up of a person on a beach, wearing a red hoodie",
    "a portrait of a person in a blue suit, (in front of bookshelves:1.2)",
    "a person in a green sweater in front of snowy mountains",
    "a person with round glasses in outer space " * 9,  # too long: its end is cut
    "",
)
WINDOW = 50
"""Prompts over which memory is averaged."""
_POLL = 0.05  # s


@dataclass(frozen=True)
class Done:
    """A prompt that is done: its combination of person and words, its
    picture's digest, the server's memory in bytes."""

    combination: tuple[int, int]
    picture: str
    memory: int


def main(arguments: Sequence[str] | None = None) -> str:
    """Run the benchmark; print and return what it found. Raises SystemExit where a prompt failed."""
    parser = argparse.ArgumentParser(description="Queue many prompts with changing people; watch memory and pictures.")
    parser.add_argument("--prompts", type=int, default=500, help="how many in all")
    parser.add_argument("--steps", type=int, default=2, help="of the sampler")
    options = parser.parse_args(arguments)
    with scratch_server() as (server, _):
        assert server.process is not None
        client, process = ComfyClient(server.address), psutil.Process(server.process.pid)
        photos = [client.upload_photo(f"person_{number}.png", content) for number, content in enumerate(portraits(PEOPLE))]
        workflow = to_prompt(read_workflow(WORKFLOW), client.get("/object_info"))
        began = time.monotonic()
        done = run_all(client, process, workflow, photos, options)
        seconds = time.monotonic() - began
    text = report(done, seconds)
    print(text)
    return text


def portraits(count: int) -> list[bytes]:
    """Drawn people whose faces dlib finds, as PNG."""
    world, detector, found = World(11, 512), load_detector("dlib"), []
    scenes = (scene for number in range(10_000) if (scene := world.scene(number)).framing == "close-up")
    for number, scene in enumerate(scenes):
        picture = world.portrait_from(world.person(number), scene).image
        if detector.detect(picture):
            content = io.BytesIO()
            Image.fromarray(picture).save(content, "PNG")
            found.append(content.getvalue())
        if len(found) == count:
            break
    return found


def run_all(
    client: ComfyClient, process: psutil.Process, workflow: Prompt, photos: Sequence[str], options: argparse.Namespace
) -> list[Done]:
    """Queue everything, then follow the queue to its end."""
    sampler = next(node for node in workflow.values() if node["class_type"] == "KSampler")
    sampler["inputs"]["steps"] = options.steps
    results = shown_pictures(workflow)["result"]
    combinations = [(k % len(photos), k // len(photos) % len(WORDS)) for k in range(options.prompts)]
    queued = [client.queue(with_words(with_photo(workflow, photos[who]), WORDS[what])) for who, what in combinations]
    done = []
    for number, (prompt_id, combination) in enumerate(zip(queued, combinations, strict=True)):
        while not (history := client.get(f"/history/{prompt_id}")):
            time.sleep(_POLL)
        entry = history[prompt_id]
        if entry["status"]["status_str"] != "success":
            raise SystemExit(f"Prompt {number} ({combination}) failed: {entry['status']['messages'][-1]}")
        (picture,) = client.pictures(GraphRun(outputs=entry["outputs"]), results)
        digest = hashlib.sha256(np.asarray(picture).tobytes()).hexdigest()
        done.append(Done(combination, digest, process.memory_info().rss))
        if sys.stderr.isatty():
            print(f"\r{number + 1} of {len(queued)}", end="", file=sys.stderr)
    return done


def report(done: Sequence[Done], seconds: float) -> str:
    """Memory over windows of prompts, and how many pictures are their combination's first one."""
    first: dict[tuple[int, int], str] = {}
    for one in done:
        first.setdefault(one.combination, one.picture)
    again = len(done) - len(first)
    same = sum(one.picture == first[one.combination] for one in done) - len(first)
    window = min(WINDOW, len(done) // 2)
    means = [
        (end, np.mean([one.memory for one in done[end - window : end]]) / 2**20) for end in range(window, len(done) + 1, window)
    ]
    settled = means[min(1, len(means) - 1)][1]  # the first window has what is loaded once
    lines = [
        f"{len(done)} prompts, {seconds:.0f} s, {seconds / len(done):.2f} s each; {len(first)} combinations make "
        f"{len(set(first.values()))} different pictures; {same} of {again} repetitions are the first one bit for bit",
        "",
        "| prompts | memory, MiB (mean) | of the second window |",
        "|---|---|---|",
        *(f"| {end - window + 1} to {end} | {mean:.0f} | {mean / settled:.3f} |" for end, mean in means),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
