"""Take the pictures of README.md and docs/quality.md in ComfyUI's real editor: what a user of the pack sees.

    python scripts/make_screenshots.py [FOLDER] [--front-end-root STATIC]       (default folder: docs/images)

Everything runs on the mini model and the drawn people that come with the pack. Needs what `comfy_editor`
does, and a font with Japanese letters (Debian: fonts-wqy-zenhei or fonts-noto-cjk).
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# Beside this file, where Python looks first for a script's imports.
from comfy_editor import ROOT, comfyui, editor
from PIL import Image

from demo.client import ComfyClient
from demo.graph import read_workflow, template

WIDTH, HEIGHT, QUALITY = 2000, 1120, 82
PEOPLE = ("ada.jpg", "ben.jpg")
MINI = {
    "face_clip_encoder.pt": "faceclip_mini_encoder.safetensors",
    "unet.pt": "faceclip_mini_unet.safetensors",
    "sdxl_vae.safetensors": "zz_faceclip_mini_vae.safetensors",
}
"""The files of the workflows for the released weights, and those that stand in for them."""
_FILL = """([photos, files, sampling]) => {
    let next = 0
    for (const node of window.app.graph.nodes) {
        for (const widget of node.widgets ?? []) {
            if (node.type === 'LoadImage' && widget.name === 'image') {
                widget.value = photos[next++ % photos.length]
                widget.callback(widget.value)
            }
            if (files[widget.value]) widget.value = files[widget.value]
            if (sampling && widget.name in sampling) widget.value = sampling[widget.name]
            if (sampling && widget.name === 'prompt' && node.inputs.some((input) => input.name === 'identity' && input.link))
                widget.value = sampling.words
        }
    }
    window.app.canvas.setDirty(true, true)
}"""
_SHOWN = """() => {
    const nodes = window.app.graph.nodes.filter((node) => ['PreviewImage', 'SaveImage'].includes(node.type))
    return nodes.length > 0 && nodes.every((node) => node.imgs?.length && node.imgs.every((image) => image.naturalWidth > 0))
}"""
_FRAME = """([left, top, right, bottom]) => {
    const { canvas } = window.app
    const [width, height] = [canvas.canvas.clientWidth - 120, canvas.canvas.clientHeight - 140]
    const scale = Math.min(width / (right - left), height / (bottom - top))
    canvas.ds.scale = scale
    canvas.ds.offset = [90 / scale - left, 110 / scale - top]
    canvas.setDirty(true, true)
    return [90, 110, (right - left) * scale, (bottom - top) * scale]
}"""
_ALONE = """(type) => {
    window.app.graph.clear()
    const node = window.LiteGraph.createNode(type)
    node.pos = [420, 240]
    window.app.graph.add(node)
    window.app.canvas.ds.reset()
    window.app.canvas.selectNode(node)
    window.app.canvas.setDirty(true, true)
}"""
# What newer editors do themselves; tests/comfyui/test_help.py says more.
_MERGE_WORDS = """async (language) => {
    const vue = document.querySelector('#vue-app').__vue_app__
    const i18n = vue._context.provides[vue.__VUE_I18N_SYMBOL__].global
    i18n.mergeLocaleMessage(language, (await (await fetch('/api/i18n')).json())[language])
    await window.app.extensionManager.command.execute('Comfy.RefreshNodeDefinitions')
}"""
SMALL: Mapping[str, Any] = {"width": 128, "height": 128, "steps": 20, "cfg": 2.0, "scheduler": "normal"}
WORDS = "a close-up of a person on a sandy beach by the sea, wearing a red hoodie"
MARGIN, TITLE = 24, 60


def bounds(graph: Mapping[str, Any], kinds: tuple[str, ...] = ()) -> list[float]:
    """Left, top, right, bottom of a workflow on the canvas, or of its nodes of some kinds; notes do not count."""
    nodes = [node for node in graph["nodes"] if node["type"] != "MarkdownNote" and (not kinds or node["type"] in kinds)]
    left = min(node["pos"][0] for node in nodes)
    top = min(node["pos"][1] for node in nodes)
    right = max(node["pos"][0] + node["size"][0] for node in nodes)
    bottom = max(node["pos"][1] + node["size"][1] for node in nodes)
    return [left - MARGIN, top - MARGIN - TITLE, right + MARGIN, bottom + MARGIN]


def run(page: Any, title: str, photos: list[str], sampling: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Open a workflow, give it photos and the mini files, run it, and wait until its pictures are there."""
    graph = read_workflow(template(title))
    page.evaluate("(graph) => window.app.loadGraphData(graph)", graph)
    page.wait_for_timeout(1_500)
    page.keyboard.press("Escape")  # the dialog of the files that are not there
    page.evaluate(_FILL, [photos, MINI, sampling])
    page.wait_for_timeout(1_000)
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_function(_SHOWN, timeout=600_000)
    page.wait_for_timeout(8_000)  # until the word that the job is done has gone
    return graph


def framed(page: Any, box: list[float]) -> Image.Image:
    """The part of the canvas that `box` is."""
    x, y, width, height = page.evaluate(_FRAME, box)
    page.wait_for_timeout(1_500)
    clip = {"x": x, "y": y, "width": min(width, WIDTH - x), "height": min(height, HEIGHT - y)}
    return shot(page, clip=clip)


def shot(page: Any, **options: Any) -> Image.Image:
    return Image.open(io.BytesIO(page.screenshot(**options))).convert("RGB")


def mini_demo(page: Any, photos: list[str]) -> Image.Image:
    return framed(page, bounds(run(page, "Mini demo", photos)))


def detection_preview(page: Any, photos: list[str]) -> Image.Image:
    """Of the graph that `mini_demo` has run."""
    kinds = ("FaceCLIPExampleFace", "FaceCLIPDetectFaces")
    return framed(page, bounds(read_workflow(template("Mini demo")), kinds))


def two_people(page: Any, photos: list[str]) -> Image.Image:
    return framed(page, bounds(run(page, "Mini two people", photos)))


def rank(page: Any, photos: list[str]) -> Image.Image:
    return framed(page, bounds(run(page, "Best of four", photos[:1], {**SMALL, "words": WORDS})))


def missing_models(page: Any, photos: list[str]) -> Image.Image:
    page.evaluate("(graph) => { window.app.loadGraphData(graph) }", read_workflow(template("Portrait")))
    page.get_by_role("dialog").wait_for()
    page.wait_for_timeout(2_000)
    picture = shot(page)
    page.keyboard.press("Escape")
    return picture


def help_panel(page: Any, photos: list[str]) -> Image.Image:
    page.evaluate(_ALONE, "FaceCLIPDetectFaces")
    page.wait_for_timeout(1_000)
    page.get_by_test_id("info-button").click()
    page.wait_for_function("() => document.querySelector('.node-help-content img')?.naturalWidth > 0")
    page.wait_for_timeout(1_000)
    return shot(page)


PICTURES: Mapping[str, Callable[[Any, list[str]], Image.Image]] = {
    "mini_demo": mini_demo,
    "detection_preview": detection_preview,
    "two_people": two_people,
    "rank": rank,
    "missing_models": missing_models,
    "help_panel": help_panel,
}
LANGUAGE = "ja"


def translated(page: Any) -> Image.Image:
    page.evaluate(_MERGE_WORDS, LANGUAGE)
    page.evaluate(_ALONE, "FaceCLIPDetectFaces")
    return framed(page, [380, 170, 1000, 580])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Take the pictures of the documentation.")
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "docs" / "images")
    parser.add_argument("--only", nargs="*", choices=[*PICTURES, "translated"], default=[*PICTURES, "translated"])
    parser.add_argument("--front-end-root", type=Path, help="the folder static of another comfyui-frontend-package")
    options = parser.parse_args(argv)
    with comfyui(options.front_end_root) as (address, client):
        taken = _take(address, client, options.only)
        for name, picture in taken.items():
            picture.save(options.folder / f"{name}.webp", quality=QUALITY, method=6)
            print(options.folder / f"{name}.webp", picture.size)


def _take(address: str, client: ComfyClient, only: list[str]) -> dict[str, Image.Image]:
    photos = [client.upload_photo(name, (ROOT / "models" / "people" / name).read_bytes()) for name in PEOPLE]
    taken = {}
    with editor(address, WIDTH, HEIGHT) as page:
        for name, take in PICTURES.items():
            if name in only:
                taken[name] = take(page, photos)
    if "translated" in only:
        client.post("/settings", {"Comfy.Locale": LANGUAGE})
        with editor(address, WIDTH, HEIGHT) as page:
            taken["translated"] = translated(page)
    return taken


if __name__ == "__main__":
    main()
