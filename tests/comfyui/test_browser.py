"""The workflows in ComfyUI's real editor, in a real Chromium: dropped on
the canvas, run with its button, looked at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from demo.client import ComfyClient
from demo.graph import read_workflow, template, to_prompt

DEMO = template("Mini demo")

pytestmark = pytest.mark.browser

_DROP = """([text, name]) => {
    const carried = new DataTransfer()
    carried.items.add(new File([text], name, { type: 'application/json' }))
    const canvas = document.querySelector('#graph-canvas')
    const { x, y, width, height } = canvas.getBoundingClientRect()
    const where = { clientX: x + width / 2, clientY: y + height / 2, bubbles: true, cancelable: true, dataTransfer: carried }
    for (const kind of ['dragenter', 'dragover', 'drop']) canvas.dispatchEvent(new DragEvent(kind, where))
}"""
_LOADED = "(count) => window.app.graph.nodes.length === count"
_SHOWN = """(type) => {
    const nodes = window.app.graph.nodes.filter((node) => node.type === type)
    return nodes.length > 0 && nodes.every((node) => node.imgs?.length && node.imgs.every((image) => image.naturalWidth > 0))
}"""
_SIZES = """(type) => window.app.graph.nodes.filter((node) => node.type === type)
    .flatMap((node) => node.imgs.map((image) => [image.naturalWidth, image.naturalHeight]))"""
_SAID = """() => {
    const said = {}
    for (const node of window.app.graph.nodes) {
        const text = node.widgets?.find((widget) => widget.name === '$$node-text-preview')?.value
        if (text) (said[node.type] ??= []).push(text)
    }
    return said
}"""
_BE_LESS_SURE = """() => {
    const node = window.app.graph.nodes.find((node) => node.type === 'FaceCLIPDetectFaces')
    node.widgets.find((widget) => widget.name === 'min_confidence').value = 0.45
}"""


def drop(editor: Page, text: str, name: str) -> None:
    """Drop a workflow file on the canvas and wait until the editor has its nodes."""
    editor.evaluate(_DROP, [text, name])
    editor.wait_for_function(_LOADED, arg=len(json.loads(text)["nodes"]), timeout=30_000)
    editor.wait_for_timeout(1_000)  # the editor looks for missing nodes and models after it has drawn the graph


def test_a_workflow_dropped_on_the_canvas_misses_no_node(workflow: Path, editor: Page, screenshots: Path) -> None:
    drop(editor, workflow.read_text(encoding="utf-8"), workflow.name)
    editor.get_by_label("Fit View").click()
    editor.wait_for_timeout(1_000)
    editor.screenshot(path=screenshots / f"{workflow.stem}_loaded.png")
    expect(editor.get_by_role("dialog")).to_have_count(0)
    known = editor.evaluate("() => window.app.graph.nodes.filter((n) => !(n.type in LiteGraph.registered_node_types)).length")
    assert known == 0


def test_the_editor_would_tell_of_a_missing_node(editor: Page) -> None:
    # What the test above relies on: a node that nobody has opens a dialog with its name.
    text = DEMO.read_text(encoding="utf-8").replace('"FaceCLIPDetectFaces"', '"FaceCLIPNobodyHasThis"')
    drop(editor, text, DEMO.name)
    expect(editor.get_by_role("dialog")).to_contain_text("FaceCLIPNobodyHasThis")


def test_our_conversion_sends_what_the_editor_sends(workflow: Path, editor: Page, client: ComfyClient) -> None:
    drop(editor, workflow.read_text(encoding="utf-8"), workflow.name)
    sent = editor.evaluate("async () => (await window.app.graphToPrompt()).output")
    object_info = client.get("/object_info")
    for node in sent.values():
        # The editor also sends what only its own widgets hold, such as the text that Preview Any shows.
        known = {name for group in object_info[node["class_type"]]["input"].values() for name in group}
        node["inputs"] = {name: value for name, value in node["inputs"].items() if name in known}
    assert to_prompt(read_workflow(workflow), object_info) == sent


def test_run_shows_the_face_and_the_result(editor: Page, screenshots: Path) -> None:
    drop(editor, DEMO.read_text(encoding="utf-8"), DEMO.name)
    editor.evaluate(_BE_LESS_SURE)  # a node that ran before, for another test, would say nothing
    editor.get_by_role("button", name="Run", exact=True).click()
    for kind in ("FaceCLIPDetectFaces", "SaveImage"):
        editor.wait_for_function(_SHOWN, arg=kind, timeout=300_000)
    editor.get_by_label("Fit View").click()
    editor.wait_for_timeout(1_500)
    editor.screenshot(path=screenshots / "mini_demo_run.png")

    said = editor.evaluate(_SAID)
    assert any("of 69 tokens" in text for text in said["FaceCLIPTextEncode"])
    assert said["FaceCLIPDetectFaces"][0].startswith("1 face taken from 1 photo.")
    ((width, height),) = editor.evaluate(_SIZES, "FaceCLIPDetectFaces")
    assert width == 960 and height > 500, "photo, crop and report, on the node itself"
    latent = next(node for node in read_workflow(DEMO)["nodes"] if node["type"] == "EmptyLatentImage")
    assert editor.evaluate(_SIZES, "SaveImage") == [latent["widgets_values"][:2]]
    expect(editor.get_by_role("dialog")).to_have_count(0)
