"""The pack in a real ComfyUI server, driven by the demo's client as the editor drives it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo.client import ComfyClient, GraphError, GraphRun, Prompt
from demo.graph import downloads, read_workflow, shown_pictures, template, to_prompt, with_photo, with_previews
from demo.server import ComfyServer

DEMO = template("Mini demo")
NODE_IDS = {
    "FaceCLIPBlendIdentities",
    "FaceCLIPDetectFaces",
    "FaceCLIPEncodeIdentity",
    "FaceCLIPEncoderLoader",
    "FaceCLIPExampleFace",
    "FaceCLIPFaceDetectorLoader",
    "FaceCLIPFaceSimilarity",
    "FaceCLIPLoadIdentity",
    "FaceCLIPLoader",
    "FaceCLIPSaveIdentity",
    "FaceCLIPT5Loader",
    "FaceCLIPT5TextEncode",
    "FaceCLIPTextEncode",
    "FaceCLIPUNetLoader",
}

pytestmark = pytest.mark.server


def prompt_of(workflow: Path, client: ComfyClient, photo: str) -> Prompt:
    return with_previews(with_photo(to_prompt(read_workflow(workflow), client.get("/object_info")), photo))


def pictures(client: ComfyClient, run: GraphRun, node_id: str) -> list[np.ndarray]:
    """What an output node showed: uint8 [H, W, 3] each."""
    return [np.asarray(picture) for picture in client.pictures(run, [node_id])]


def test_the_server_lists_every_node_of_the_pack_and_no_other(server: ComfyServer, client: ComfyClient) -> None:
    listed = {name for name in client.get("/object_info") if name.startswith("FaceCLIP")}
    assert listed == NODE_IDS, server.log_tail()


def test_the_pack_loads_without_a_complaint_in_the_log(server: ComfyServer, server_base: Path) -> None:
    complaints = ("Cannot import", "Error while calling comfy_entrypoint", "Skip", "did not return")
    lines = server.log.read_text(encoding="utf-8").splitlines()
    pack = str(server_base / "custom_nodes")
    assert [line for line in lines if pack in line and any(word in line for word in complaints)] == []


def test_every_input_and_output_explains_itself_to_the_editor(client: ComfyClient) -> None:
    silent = []
    for name, node in client.get("/object_info").items():
        if name in NODE_IDS:
            assert node["description"], name
            assert node["category"].startswith("FaceCLIP"), name
            inputs = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
            silent += [f"{name}.{key}" for key, spec in inputs.items() if not spec[1].get("tooltip")]
            tooltips = zip(node["output_name"], node["output_tooltips"], strict=True)
            silent += [f"{name} -> {output}" for output, tooltip in tooltips if not tooltip]
    assert silent == []


def test_a_mini_workflow_runs_and_its_pictures_arrive(
    mini_workflow: Path, server: ComfyServer, client: ComfyClient, photo: str
) -> None:
    prompt = prompt_of(mini_workflow, client, photo)
    steps: list[float] = []
    run = client.run(prompt, lambda done, node_id: steps.append(done))

    shown = shown_pictures(prompt)
    latent = next(node["inputs"] for node in prompt.values() if node["class_type"] == "EmptyLatentImage")
    for node_id in shown["result"]:
        results = pictures(client, run, node_id)
        assert len(results) == latent["batch_size"]
        for result in results:
            assert result.shape == (latent["height"], latent["width"], 3)
            assert result.std() > 2, "the picture is all one colour"
    for node_id in shown["aligned"]:
        assert [crop.shape for crop in pictures(client, run, node_id)] == [(448, 448, 3)]
    for node_id in shown["faces"]:
        assert [preview.shape for preview in pictures(client, run, node_id)] == [(512, 512, 3)]
    assert shown["result"] and shown["aligned"] and shown["faces"]
    assert steps == sorted(steps) and steps[-1] == 1.0
    assert set(run.seconds) <= set(prompt)


def test_the_mini_demo_runs_as_it_comes(client: ComfyClient) -> None:
    prompt = to_prompt(read_workflow(DEMO), client.get("/object_info"))
    run = client.run(prompt)
    (detect,) = [node_id for node_id, node in prompt.items() if node["class_type"] == "FaceCLIPDetectFaces"]
    (sheet,) = pictures(client, run, detect)
    assert sheet.shape[1] == 960, "what was found, on the node itself"
    (result,) = shown_pictures(prompt)["result"]
    assert [picture.shape for picture in pictures(client, run, result)] == [(128, 128, 3)]


def test_a_second_run_of_the_same_graph_gives_the_same_picture(client: ComfyClient, photo: str) -> None:
    prompt = prompt_of(DEMO, client, photo)
    (result,) = shown_pictures(prompt)["result"]
    sampler = next(node for node in prompt.values() if node["class_type"] == "KSampler")

    sampler["inputs"].update(seed=1, steps=2)
    first = pictures(client, client.run(prompt), result)
    sampler["inputs"].update(seed=2)
    other = pictures(client, client.run(prompt), result)
    sampler["inputs"].update(seed=1)
    again = pictures(client, client.run(prompt), result)

    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_workflow_with_the_released_weights_passes_validation_and_an_empty_file_is_called_so(
    download_workflow: Path, client: ComfyClient, photo: str
) -> None:
    # The files are there by name and empty, so the graph is accepted and stops at the first loader.
    prompt = prompt_of(download_workflow, client, photo)
    names = {file["name"] for file in downloads(read_workflow(download_workflow))}
    assert names <= {value for node in prompt.values() for value in node["inputs"].values() if isinstance(value, str)}
    with pytest.raises(GraphError, match=r"Load.*|VAELoader|Loader") as failure:
        client.run(prompt)
    assert "refused" not in str(failure.value)
    # The core's own loaders say it in their own words.
    assert any(said in str(failure.value) for said in ("empty", "VAELoader", "UNETLoader", "DualCLIPLoader"))


def test_every_choice_of_a_workflow_is_one_that_the_server_offers(workflow: Path, client: ComfyClient, photo: str) -> None:
    # ComfyUI 0.3.75 does not check this for nodes of the V3 API; newer versions and the editor do.
    object_info = client.get("/object_info")
    unknown = []
    for node in prompt_of(workflow, client, photo).values():
        groups = object_info[node["class_type"]]["input"]
        specs = {**groups.get("required", {}), **groups.get("optional", {})}
        for name, value in node["inputs"].items():
            kind, *extra = specs[name]
            options = kind if isinstance(kind, list) else extra[0].get("options") if kind == "COMBO" else None
            if options is not None and value not in options:
                unknown.append(f"{node['class_type']}.{name} = {value!r}")
    assert unknown == []


def test_a_file_that_has_gone_is_named_with_the_folders_where_it_was_sought(client: ComfyClient, photo: str) -> None:
    prompt = prompt_of(DEMO, client, photo)
    loader = next(node for node in prompt.values() if node["class_type"] == "FaceCLIPLoader")
    loader["inputs"]["encoder_name"] = "nowhere.safetensors"
    with pytest.raises(GraphError, match=r"FaceCLIPLoader.*encoder_name: There is no file nowhere.*models.faceclip"):
        client.queue(prompt)


def test_the_server_refuses_an_input_out_of_range_and_the_client_says_which_node(client: ComfyClient, photo: str) -> None:
    prompt = prompt_of(DEMO, client, photo)
    next(node for node in prompt.values() if node["class_type"] == "FaceCLIPDetectFaces")["inputs"]["index"] = -1
    with pytest.raises(GraphError, match=r"FaceCLIPDetectFaces \(node \d+\): .*-1.*index"):
        client.queue(prompt)


def test_a_photo_without_a_face_stops_the_graph_with_words_for_an_artist(client: ComfyClient) -> None:
    wall = io.BytesIO()
    Image.new("RGB", (320, 240), (90, 120, 150)).save(wall, "PNG")
    prompt = prompt_of(DEMO, client, client.upload_photo("wall.png", wall.getvalue()))
    with pytest.raises(GraphError, match=r"FaceCLIPDetectFaces \(node \d+\) failed: .*[Nn]o face"):
        client.run(prompt)


def test_workflow_files_are_what_the_editor_saves(workflow: Path) -> None:
    graph = json.loads(workflow.read_text(encoding="utf-8"))
    links = {link[0]: link for link in graph["links"]}
    assert graph["version"] == 0.4
    assert len(links) == len(graph["links"]), "link ids repeat"
    for node in graph["nodes"]:
        for slot, entry in enumerate(node.get("inputs", [])):
            if entry.get("link") is not None:
                assert links[entry["link"]][3:5] == [node["id"], slot]
        for slot, entry in enumerate(node.get("outputs", [])):
            for link in entry.get("links") or []:
                assert links[link][1:3] == [node["id"], slot]
