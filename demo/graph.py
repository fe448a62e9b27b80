"""Workflows of the editor (UI format) made into what the server runs (API format)."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from .client import Prompt
from .link import ROOT

DETECT, ENCODE, SHOW = "FaceCLIPDetectFaces", "FaceCLIPTextEncode", ("PreviewImage", "SaveImage")
LOAD_PHOTO, EXAMPLE = "LoadImage", "FaceCLIPExampleFace"
_DETECTOR_SHOWS = {0: "aligned", 1: "faces"}  # by the slots of Detect Faces


def template(title: str) -> Path:
    """The pack's workflow of that title, which stands behind the number in its file's name."""
    (path,) = (ROOT / "workflows").glob(f"FaceCLIP ?? {title}.json")
    return path


def read_workflow(path: Path) -> dict[str, Any]:
    """A workflow file in UI format."""
    return json.loads(path.read_text(encoding="utf-8"))


def downloads(workflow: dict[str, Any]) -> list[dict[str, str]]:
    """The files that the workflow's loaders offer for download: name, url, directory below `models/`."""
    return [file for node in workflow["nodes"] for file in node.get("properties", {}).get("models", [])]


def to_prompt(workflow: dict[str, Any], object_info: dict[str, Any]) -> Prompt:
    """The workflow in API format, as the editor's own *Run* sends it.

    Args:
        workflow: UI format.
        object_info: the server's `/object_info`, which names the widgets that `widgets_values` lists by position.
    """
    from comfy_cli.workflow_to_api import convert_ui_to_api

    return convert_ui_to_api(copy.deepcopy(workflow), object_info)


def with_photo(prompt: Prompt, name: str) -> Prompt:
    """The same graph with every `LoadImage`, and every example face, set to the uploaded photo `name`."""
    changed = copy.deepcopy(prompt)
    for node in changed.values():
        if node["class_type"] in (LOAD_PHOTO, EXAMPLE):
            node.update(class_type=LOAD_PHOTO, inputs={"image": name})
    return changed


def with_previews(prompt: Prompt) -> Prompt:
    """The same graph with nodes that show what Detect Faces gives: aligned crops, and photos with numbered boxes."""
    changed = copy.deepcopy(prompt)
    for node_id, node in prompt.items():
        if node["class_type"] == DETECT:
            for slot, what in _DETECTOR_SHOWS.items():
                inputs = {"images": [node_id, slot]}
                changed[f"{node_id}_{what}"] = {"class_type": "PreviewImage", "inputs": inputs, "_meta": {"title": what}}
    return changed


def with_words(prompt: Prompt, words: str) -> Prompt:
    """The same graph with every text that goes with a face set to `words`; negative prompts stay."""
    changed = copy.deepcopy(prompt)
    for node in changed.values():
        if node["class_type"] == ENCODE and "identity" in node["inputs"]:
            node["inputs"]["prompt"] = words
    return changed


def shown_pictures(prompt: Prompt) -> dict[str, list[str]]:
    """Which output nodes show what: ids of the nodes that show "faces"
    (numbered boxes), "aligned" crops and "result"s."""
    shown: dict[str, list[str]] = {"faces": [], "aligned": [], "result": []}
    for node_id, node in prompt.items():
        source = node["inputs"].get("images")
        if node["class_type"] in SHOW and isinstance(source, list):
            from_detector = prompt[source[0]]["class_type"] == DETECT
            shown[_DETECTOR_SHOWS[source[1]] if from_detector else "result"].append(node_id)
    return shown
