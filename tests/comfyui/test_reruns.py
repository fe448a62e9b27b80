"""What a changed input makes ComfyUI run again: what depends on it, and no more."""

from __future__ import annotations

from collections import Counter

import pytest

from demo.client import ComfyClient, Prompt
from demo.graph import read_workflow, template, to_prompt, with_photo

pytestmark = pytest.mark.server

END = ["KSampler", "VAEDecode", "SaveImage"]
"""Of the graph: all of it is ComfyUI's own."""


@pytest.fixture
def prompt(client: ComfyClient, photo: str) -> Prompt:
    """The mini workflow, small, after it ran once."""
    graph = with_photo(to_prompt(read_workflow(template("Mini demo")), client.get("/object_info")), photo)
    inputs_of(graph, "KSampler")["steps"] = 2
    client.run(graph)
    return graph


def inputs_of(prompt: Prompt, kind: str) -> dict:
    """The inputs of the first node of a class: of the encoders that is the one with the face."""
    return next(node["inputs"] for node in prompt.values() if node["class_type"] == kind)


def ran(client: ComfyClient, prompt: Prompt) -> Counter[str]:
    """How many nodes of each class ran."""
    return Counter(prompt[node]["class_type"] for node in client.run(prompt).seconds)


def test_the_same_graph_runs_nothing(client: ComfyClient, prompt: Prompt) -> None:
    assert ran(client, prompt) == Counter()


def test_another_seed_runs_nothing_of_the_pack(client: ComfyClient, prompt: Prompt) -> None:
    inputs_of(prompt, "KSampler")["seed"] += 1
    assert ran(client, prompt) == Counter(END)


def test_another_prompt_runs_its_encoder_alone_neither_detection_nor_the_face_tower(client: ComfyClient, prompt: Prompt) -> None:
    inputs_of(prompt, "FaceCLIPTextEncode")["prompt"] += ", in the rain"
    assert ran(client, prompt) == Counter(["FaceCLIPTextEncode", *END])


def test_another_choice_of_face_loads_no_model_again(client: ComfyClient, prompt: Prompt) -> None:
    inputs_of(prompt, "FaceCLIPDetectFaces")["order"] = "left to right"
    again = ran(client, prompt)
    previews = Counter(["PreviewImage"] * 2)
    assert again - previews == Counter(["FaceCLIPDetectFaces", "FaceCLIPEncodeIdentity", "FaceCLIPTextEncode", *END])
