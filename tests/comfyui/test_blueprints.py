"""The subgraph blueprints in ComfyUI's node library: found, put on the canvas as one node each, and run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Page

from demo.client import ComfyClient
from demo.link import ROOT

BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))

_OFFERED = "(name) => window.app.graph.nodes.some((node) => node.title === name && node.isSubgraphNode?.())"
_SOCKETS = """(name) => {
    const node = window.app.graph.nodes.find((node) => node.title === name)
    const values = Object.fromEntries(node.widgets.map((widget) => [widget.name, widget.value]))
    return { inputs: node.inputs.map((i) => i.name), outputs: node.outputs.map((o) => o.name), values }
}"""


def put(editor: Page, name: str) -> None:
    """Search the node library for a blueprint, as a user does, and put it on the canvas."""
    editor.evaluate("window.app.graph.clear()")
    search = editor.get_by_role("combobox")
    for _ in range(5):  # a busy machine can be too slow for two clicks to count as a double one
        editor.locator("#graph-canvas").dblclick(position={"x": 700, "y": 300})
        editor.wait_for_timeout(2_000)
        if search.count():
            break
    search.last.fill(name)
    editor.get_by_role("option").filter(has_text=name).first.click()
    editor.wait_for_function(_OFFERED, arg=name)


def test_the_server_offers_every_blueprint_as_this_packs(client: ComfyClient) -> None:
    offered = client.get("/global_subgraphs").values()
    assert sorted(entry["name"] for entry in offered) == [path.stem for path in BLUEPRINTS]
    assert all(entry["info"]["node_pack"].startswith("custom_nodes.") for entry in offered)


def test_the_script_makes_the_committed_blueprints(client: ComfyClient, tmp_path: Path) -> None:
    (tmp_path / "object_info.json").write_text(json.dumps(client.get("/object_info")))
    script = str(ROOT / "scripts" / "make_blueprints.py")
    subprocess.run([sys.executable, script, str(tmp_path / "object_info.json"), str(tmp_path / "made")], check=True)
    made = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "made").glob("*.json")}
    assert made == {path.stem: json.loads(path.read_text()) for path in BLUEPRINTS}


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)
def test_every_node_and_link_of_a_blueprint_is_there(path: Path, client: ComfyClient) -> None:
    workflow = json.loads(path.read_text(encoding="utf-8"))
    (definition,) = workflow["definitions"]["subgraphs"]
    (node,) = workflow["nodes"]
    assert node["type"] == definition["id"]
    assert {inner["type"] for inner in definition["nodes"]} <= set(client.get("/object_info"))
    links = {link["id"] for link in definition["links"]}
    for end in (*definition["inputs"], *definition["outputs"]):
        assert end["linkIds"] and links.issuperset(end["linkIds"]), end["name"]


@pytest.mark.browser
@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)
def test_a_blueprint_comes_as_one_node_with_its_widgets(path: Path, editor: Page, screenshots: Path) -> None:
    put(editor, path.stem)
    node = json.loads(path.read_text(encoding="utf-8"))["nodes"][0]
    found = editor.evaluate(_SOCKETS, path.stem)
    editor.wait_for_timeout(500)
    editor.screenshot(path=screenshots / f"blueprint_{path.stem.replace(' ', '_').lower()}.png")
    assert found["inputs"] == [socket["name"] for socket in node["inputs"]]
    assert found["outputs"] == [socket["name"] for socket in node["outputs"]]
    assert found["values"]["strength"] == 1 and found["values"].get("width", 864) == 864


_SEEDS = """async () => {
    const { app } = window, seeds = []
    const send = app.api.queuePrompt
    app.api.queuePrompt = async (place, { output }) => {
        seeds.push(...Object.values(output).filter((node) => node.class_type === 'KSampler').map((node) => node.inputs.seed))
        return { node_errors: {}, prompt_id: `run ${seeds.length}` }
    }
    for (let run = 0; run < 3; run++) await app.queuePrompt(0)
    app.api.queuePrompt = send
    return seeds
}"""


@pytest.mark.browser
def test_every_run_of_a_portrait_has_a_seed_of_its_own(editor: Page) -> None:
    portrait = json.loads((ROOT / "subgraphs" / "FaceCLIP portrait.json").read_text(encoding="utf-8"))
    editor.evaluate("(graph) => window.app.loadGraphData(graph)", portrait)
    seeds = editor.evaluate(_SEEDS)
    assert seeds[0] == 42 and len(set(seeds)) == 3


_WIRE = """([name, photo]) => {
    const { graph } = window.app, make = (type, values) => {
        const node = window.LiteGraph.createNode(type)
        graph.add(node)
        for (const widget of node.widgets ?? []) if (widget.name in values) widget.value = values[widget.name]
        return node
    }
    const whole = graph.nodes.find((node) => node.title === name)
    const set = (node, values) => node.widgets.forEach((w) => { if (w.name in values) w.value = values[w.name] })
    set(whole, { prompt: 'a person in a park', width: 128, height: 128, batch_size: 1, seed: 7 })
    make('LoadImage', { image: photo }).connect(0, whole, 0)
    const mini = (part) => `faceclip_mini_${part}.safetensors`
    const files = { encoder_name: mini('encoder'), unet_name: mini('unet'), vae_name: 'zz_faceclip_mini_vae.safetensors' }
    const named = { ...files, steps: 2, scheduler: 'normal' }
    for (const node of whole.subgraph.nodes) if (node.widgets) set(node, named)
    const show = (node, slot) => node.connect(slot, make('PreviewImage', {}), 0)
    show(whole, whole.findOutputSlot('faces'))
    if (whole.findOutputSlot('image') >= 0) return show(whole, whole.findOutputSlot('image'))
    make('FaceCLIPEncoderLoader', named).connect(0, whole, 1)
    const sampler = make('KSampler', named), decoder = make('VAEDecode', {})
    make('FaceCLIPUNetLoader', named).connect(0, sampler, 0)
    whole.connect(0, sampler, 1)
    whole.connect(1, sampler, 2)
    make('EmptyLatentImage', { width: 128, height: 128, batch_size: 1 }).connect(0, sampler, 3)
    sampler.connect(0, decoder, 0)
    make('VAELoader', named).connect(0, decoder, 1)
    show(decoder, 0)
}"""
_SHOWN = """() => {
    const shown = window.app.graph.nodes.filter((node) => node.type === 'PreviewImage')
    return shown.every((node) => node.imgs?.length && node.imgs.every((image) => image.naturalWidth > 0))
}"""
_SIZES = """() => window.app.graph.nodes.filter((node) => node.type === 'PreviewImage')
    .flatMap((node) => node.imgs.map((image) => image.naturalWidth))"""


@pytest.mark.browser
@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)
def test_a_blueprint_runs_on_the_mini_model(path: Path, editor: Page, photo: str) -> None:
    put(editor, path.stem)
    editor.evaluate(_WIRE, [path.stem, photo])
    sent = editor.evaluate("async () => (await window.app.graphToPrompt()).output")
    words = [node["inputs"]["prompt"] for node in sent.values() if node["class_type"] == "FaceCLIPTextEncode"]
    assert "a person in a park" in words, "what is typed on the node reaches the node inside"
    editor.get_by_role("button", name="Run", exact=True).click()
    editor.wait_for_function(_SHOWN, timeout=120_000)
    assert sorted(editor.evaluate(_SIZES)) == [128, 448]
