"""What goes wrong on other machines: cancelled runs, two servers at
once, paths with spaces (those of every server test)."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from demo.client import ComfyClient, GraphError, Prompt
from demo.graph import read_workflow, shown_pictures, template, to_prompt, with_photo
from demo.link import ROOT
from demo.server import ComfyServer

pytestmark = pytest.mark.server

DEMO = template("Mini demo")
SAVE = template("Save a person")
MINI = {
    "encoder_name": "faceclip_mini_encoder.safetensors",
    "unet_name": "faceclip_mini_unet.safetensors",
    "vae_name": "zz_faceclip_mini_vae.safetensors",
}


def demo(client: ComfyClient, photo: str, **sampler: int) -> Prompt:
    """The mini workflow with a photo, and other settings of KSampler."""
    prompt = with_photo(to_prompt(read_workflow(DEMO), client.get("/object_info")), photo)
    next(node for node in prompt.values() if node["class_type"] == "KSampler")["inputs"].update(sampler)
    return prompt


def pictures(client: ComfyClient, prompt: Prompt) -> list[np.ndarray]:
    run = client.run(prompt)
    return [np.asarray(picture) for picture in client.pictures(run, shown_pictures(prompt)["result"])]


def test_the_servers_paths_have_spaces_and_accents(server_base: Path) -> None:
    assert " " in server_base.name and not server_base.name.isascii()


def test_after_a_cancel_at_any_moment_the_next_run_is_right(client: ComfyClient, photo: str, other_photo: str) -> None:
    chance = random.Random(0)
    expected = {name: pictures(client, demo(client, name, steps=4)) for name in (photo, other_photo)}
    began = time.monotonic()
    pictures(client, demo(client, photo, steps=40, seed=8))
    seconds = time.monotonic() - began
    stopped = set()
    for number in range(8):
        cancelled, then = (photo, other_photo) if number % 2 else (other_photo, photo)
        prompt_id = client.queue(demo(client, cancelled, steps=40, seed=number))
        time.sleep(chance.uniform(0.0, 0.9) * seconds)
        client.post("/interrupt", {})
        while not (history := client.get(f"/history/{prompt_id}")):
            time.sleep(0.02)
        messages = dict(history[prompt_id]["status"]["messages"])
        stopped |= {messages["execution_interrupted"]["node_type"]} if "execution_interrupted" in messages else set()
        assert np.array_equal(pictures(client, demo(client, then, steps=4)), expected[then]), number
    assert stopped, "no run was stopped before its end: this test saw nothing"


def test_a_cancelled_run_says_where_it_was(client: ComfyClient, photo: str) -> None:
    prompt = demo(client, photo, steps=400, seed=99)
    (sampler,) = (key for key, node in prompt.items() if node["class_type"] == "KSampler")
    with pytest.raises(GraphError, match="interrupted at KSampler"):
        client.run(prompt, lambda _, node_id: client.post("/interrupt", {}) if node_id == sampler else None)


@pytest.fixture(scope="module")
def second(comfyui_path: Path, server: ComfyServer, server_base: Path) -> Iterator[ComfyClient]:
    """Another server on the very folders of the first one: models, input, output."""
    arguments = ["--cpu", "--base-directory", str(server_base)]
    with ComfyServer(comfyui_path, Path(sys.executable), server_base / "second.log", arguments) as running:
        yield ComfyClient(running.address)


def test_two_servers_with_the_same_folders_make_the_same_pictures_at_the_same_time(
    client: ComfyClient, second: ComfyClient, photo: str, other_photo: str
) -> None:
    def made(asked: ComfyClient) -> list[np.ndarray]:
        return [
            picture
            for name in (photo, other_photo)
            for seed in (1, 2)
            for picture in pictures(asked, demo(asked, name, steps=2, seed=seed))
        ]

    with ThreadPoolExecutor(2) as pool:
        first, other = pool.map(made, (client, second))
    assert len(first) == 4 and np.array_equal(first, other)
    assert len({picture.tobytes() for picture in first}) == 4


def test_identities_saved_by_two_servers_at_the_same_time_are_two_files_that_both_can_load(
    client: ComfyClient, second: ComfyClient, server_base: Path
) -> None:
    def save(asked: ComfyClient, person: str) -> Prompt:
        name = asked.upload_photo(f"{person}.jpg", (ROOT / "models" / "people" / f"{person}.jpg").read_bytes())
        prompt = with_photo(to_prompt(read_workflow(SAVE), asked.get("/object_info")), name)
        loader = next(node for node in prompt.values() if node["class_type"] == "FaceCLIPLoader")
        loader["inputs"].update(MINI)  # all three are read, whatever the graph then uses
        keep = next(key for key, node in prompt.items() if node["class_type"] == "FaceCLIPSaveIdentity")
        prompt[keep]["inputs"]["name"] = "both"
        wanted, todo = set(), [keep]
        while todo:  # what the saving needs, and nothing of the picture
            wanted.add(node := todo.pop())
            todo += [value[0] for value in prompt[node]["inputs"].values() if isinstance(value, list)]
        return {key: node for key, node in prompt.items() if key in wanted}

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda asked, person: asked.run(save(asked, person)), (client, second), ("ada", "ben")))
    names = {"both.safetensors", "both_2.safetensors"}
    for asked in (client, second):
        node = asked.get("/object_info/FaceCLIPLoadIdentity")["FaceCLIPLoadIdentity"]
        assert names <= set(node["input"]["required"]["file_name"][1]["options"])
    contents = {(server_base / "output" / "faceclip_identities" / name).read_bytes() for name in names}
    assert len(contents) == 2
