"""The example workflows: made by the script from a real ComfyUI's node definitions, and sound."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from demo.graph import read_workflow, template
from faceclip.prompt import FLUX_NEGATIVE_PROMPT, NEGATIVE_PROMPT

ROOT = Path(__file__).resolve().parents[2]
NAMES = (
    "FaceCLIP 01 Mini demo",
    "FaceCLIP 02 Portrait",
    "FaceCLIP 03 Best of four",
    "FaceCLIP 04 Several photos",
    "FaceCLIP 05 Save a person",
    "FaceCLIP 06 Saved person",
    "FaceCLIP 07 Mini two people",
    "FaceCLIP 08 Mini three people",
    "FaceCLIP 09 Group photo",
    "FaceCLIP 10 Face swap",
    "FaceCLIP 11 Image to image",
    "FaceCLIP 12 Pose",
    "FaceCLIP 13 Style LoRA",
    "FaceCLIP 14 Hires fix",
    "FaceCLIP 15 Few steps",
    "FaceCLIP 16 Several prompts",
    "FaceCLIP 17 Folder of photos",
    "FaceCLIP 18 Blend two people",
    "FaceCLIP 19 Face comes later",
    "FaceCLIP 20 Own checkpoint",
    "FaceCLIP 21 FLUX portrait",
    "FaceCLIP 22 FLUX two people",
    "FaceCLIP 23 FLUX saved person",
)
NODE_TITLE = 30
FOLDERS = ("faceclip", "vae", "controlnet", "diffusion_models", "text_encoders")


def _workflow(name: str) -> dict[str, Any]:
    return read_workflow(ROOT / "workflows" / f"{name}.json")


def test_the_folder_holds_these_workflows() -> None:
    assert sorted(path.stem for path in (ROOT / "workflows").glob("*.json")) == list(NAMES)


def test_names_sort_as_their_numbers_and_are_safe_in_an_address_and_on_any_disk() -> None:
    numbers = [re.fullmatch(r"FaceCLIP (\d\d) [A-Z][A-Za-z ]+", name)[1] for name in NAMES]
    assert [int(number) for number in numbers] == list(range(1, len(NAMES) + 1))
    assert max(map(len, NAMES)) <= 30, "the template browser cuts longer ones"


@pytest.mark.parametrize("name", NAMES)
def test_links_agree_in_all_three_places(name: str) -> None:
    workflow = _workflow(name)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert len({link[0] for link in workflow["links"]}) == len(workflow["links"]) == workflow["last_link_id"]
    for link, source, out, target, into, kind in workflow["links"]:
        assert link in nodes[source]["outputs"][out]["links"] and nodes[source]["outputs"][out]["type"] == kind
        assert nodes[target]["inputs"][into]["link"] == link and {kind, "*"} & set(
            nodes[target]["inputs"][into]["type"].split(",")
        )
    in_nodes = [entry["link"] for node in nodes.values() for entry in node["inputs"] if entry["link"] is not None]
    assert sorted(in_nodes) == sorted(link[0] for link in workflow["links"])


@pytest.mark.parametrize("name", NAMES)
def test_what_a_node_makes_is_used(name: str) -> None:
    makers = [node for node in _workflow(name)["nodes"] if node["outputs"]]
    assert [node["type"] for node in makers if not any(output["links"] for output in node["outputs"])] == []


@pytest.mark.parametrize("name", NAMES)
def test_no_two_nodes_overlap_and_groups_hold_whole_nodes(name: str) -> None:
    workflow = _workflow(name)
    boxes = [
        (n["pos"][0], n["pos"][1] - NODE_TITLE, n["pos"][0] + n["size"][0], n["pos"][1] + n["size"][1]) for n in workflow["nodes"]
    ]
    for a, b in itertools.combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (a, b)
    for group in workflow["groups"]:
        left, top, width, height = group["bounding"]
        for box in boxes:
            outside = box[2] <= left or box[0] >= left + width or box[3] <= top or box[1] >= top + height
            inside = box[0] >= left and box[1] >= top and box[2] <= left + width and box[3] <= top + height
            assert inside or outside, (group["title"], box)


@pytest.mark.parametrize("name", NAMES)
def test_nodes_say_where_they_come_from_and_files_where_to_get_them(name: str) -> None:
    workflow = _workflow(name)
    for node in workflow["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        assert node["properties"]["Node name for S&R"] == node["type"]
        ours = node["type"].startswith("FaceCLIP")
        assert node["properties"]["cnr_id"] == ("faceclip" if ours else "comfy-core") and node["properties"]["ver"]
        for model in node["properties"].get("models", []):
            assert model["name"] in node["widgets_values"]
            assert model["url"].startswith("https://huggingface.co/") and "/resolve/" in model["url"]
            assert model["url"].endswith(model["name"]) and model["directory"] in FOLDERS
    listed = {m["name"] for node in workflow["nodes"] for m in node["properties"].get("models", [])}
    released = {"face_clip_encoder.pt", "sdxl_vae.safetensors", "unet.pt"}
    if "FLUX" in name:
        released = {"face_t5_encoder.pt", "dit.pt", "t5xxl_fp16.safetensors", "clip_l.safetensors", "ae.safetensors"}
    wanted = set() if "Mini" in name else released
    assert listed == wanted | ({"OpenPoseXL2.safetensors"} if "Pose" in name else set())


def test_mini_workflows_say_in_plain_words_that_the_model_knows_drawn_people_only() -> None:
    for name in ("Mini demo", "Mini two people", "Mini three people"):
        notes = [node["widgets_values"][0] for node in read_workflow(template(name))["nodes"] if node["type"] == "MarkdownNote"]
        assert any("drawn people only" in note and "portraits" in note for note in notes)


def test_the_sdxl_workflow_has_the_release_s_settings() -> None:
    nodes = {node.get("title", node["type"]): node for node in read_workflow(template("Portrait"))["nodes"]}
    assert nodes["EmptyLatentImage"]["widgets_values"][:2] == [864, 1152]
    assert nodes["KSampler"]["widgets_values"][2:6] == [50, 5.0, "euler", "ddim_uniform"]
    prompts = nodes["FaceCLIPTextEncode"]["widgets_values"]
    assert prompts[1:4] == [1.0, 0, 0], "the model as trained, of the picture's own size"
    assert prompts[5:] == [NEGATIVE_PROMPT, 0.0, 1.0, ""]


@pytest.mark.parametrize("name", NAMES)
def test_the_second_run_gives_another_picture(name: str) -> None:
    samplers = [node for node in _workflow(name)["nodes"] if node["type"] == "KSampler"]
    assert samplers and all(node["widgets_values"][1] == "randomize" for node in samplers)


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_fits_a_screen_at_half_size(name: str) -> None:
    nodes = _workflow(name)["nodes"]
    left, top = min(node["pos"][0] for node in nodes), min(node["pos"][1] - NODE_TITLE for node in nodes)
    right, bottom = (max(node["pos"][axis] + node["size"][axis] for node in nodes) for axis in (0, 1))
    assert right - left <= 2 * 1860 and bottom - top <= 2 * 980, "of 1920 x 1080, without the editor's bars"


@pytest.mark.parametrize("name", NAMES)
def test_nodes_stand_far_enough_apart_for_taller_ones(name: str) -> None:
    # Nodes 2.0 makes each of our nodes taller by up to 82 px.
    for above, below in itertools.permutations(_workflow(name)["nodes"], 2):
        beside = below["pos"][0] < above["pos"][0] + above["size"][0] and above["pos"][0] < below["pos"][0] + below["size"][0]
        end = above["pos"][1] + above["size"][1]
        if beside and above["type"].startswith("FaceCLIP") and below["pos"][1] >= end:
            assert below["pos"][1] - NODE_TITLE - end >= 66, (above["type"], below["type"])


@pytest.mark.parametrize("name", NAMES)
def test_notes_read_well_in_every_theme(name: str) -> None:
    for node in _workflow(name)["nodes"]:
        if node["type"] == "MarkdownNote":
            assert "`" not in node["widgets_values"][0] and not {"color", "bgcolor"} & set(node)


@pytest.mark.parametrize("name", ["Few steps", "Hires fix", "Several prompts"])
def test_what_was_not_tried_with_the_released_weights_says_so(name: str) -> None:
    notes = [n["widgets_values"][0] for n in read_workflow(template(name))["nodes"] if n["type"] == "MarkdownNote"]
    assert any("Untried with the released weights" in note for note in notes)


@pytest.mark.parametrize(
    ("name", "size"), [("portrait", [864, 1152]), ("saved person", [864, 1152]), ("two people", [1152, 864])]
)
def test_the_flux_workflows_have_the_release_s_settings(name: str, size: list[int]) -> None:
    workflow = read_workflow(template(f"FLUX {name}"))
    nodes = {node.get("title", node["type"]): node for node in workflow["nodes"]}
    assert nodes["EmptySD3LatentImage"]["widgets_values"][:2] == size
    assert nodes["ModelSamplingFlux"]["widgets_values"] == [1.15, 0.5, *size]
    assert nodes["KSampler"]["widgets_values"][2:6] == [50, 3.5, "euler", "simple"]
    encoded = [node for node in workflow["nodes"] if node["type"] == "FaceCLIPT5TextEncode"]
    (source,) = [link[1:3] for link in workflow["links"] if link[3] == nodes["KSampler"]["id"] and link[4] == 2]
    assert source == [encoded[0]["id"], 1]  # the output negative, which has seen no face
    assert encoded[0]["widgets_values"][3] == FLUX_NEGATIVE_PROMPT
    assert {tuple(node["widgets_values"][1:3]) for node in encoded} == {(1.0, 1.0)}
    notes = " ".join(node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "MarkdownNote")
    for told in ("23.8 GB", "11.9 GB", "11 times the work", "not for commercial use"):
        assert told in notes
