"""Help pages and translations as ComfyUI serves them, and as its editor shows them."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from demo.client import ComfyClient
from demo.link import ROOT
from demo.server import ComfyServer

DOCS = ROOT / "web" / "docs"
LOCALES = ROOT / "locales"


# What the editor does since pull request 7214 of ComfyUI_frontend. Before (front end 1.32), it read the packs' words ahead of the
# language's own, which then replaced them: the nodes of all packs stayed English.
_MERGE_WORDS = """async (language) => {
    const vue = document.querySelector('#vue-app').__vue_app__
    const i18n = vue._context.provides[vue.__VUE_I18N_SYMBOL__].global
    const words = await (await fetch('/api/i18n')).json()
    i18n.mergeLocaleMessage(language, words[language])
    await window.app.extensionManager.command.execute('Comfy.RefreshNodeDefinitions')
    return i18n.locale.value
}"""

_TOOLTIPS = """(names) => {
    const vue = document.querySelector('#vue-app').__vue_app__
    const { t } = vue._context.provides[vue.__VUE_I18N_SYMBOL__].global
    return Object.fromEntries(names.map((name) => [name, t(`nodeDefs.FaceCLIPDetectFaces.inputs.${name}.tooltip`)]))
}"""


def fetch(server: ComfyServer, path: str) -> bytes:
    with urllib.request.urlopen(server.address + path) as response:
        return response.read()


@pytest.mark.server
def test_the_server_gives_the_help_page_and_picture_of_every_node(server: ComfyServer, client: ComfyClient) -> None:
    nodes = {name: info for name, info in client.get("/object_info").items() if name.startswith("FaceCLIP")}
    assert nodes
    for name, info in nodes.items():
        # The editor asks for DOCS/NODE/LANGUAGE.md first, then for this.
        folder = f"/extensions/{info['python_module'].split('.')[1]}/docs"
        text = fetch(server, f"{folder}/{name}.md")
        assert text == (DOCS / f"{name}.md").read_bytes()
        (picture,) = re.findall(r"!\[.*\]\((.*)\)", text.decode())
        assert fetch(server, f"{folder}/{picture}") == (DOCS / picture).read_bytes()


@pytest.mark.server
def test_the_server_gives_our_words_in_every_language(client: ComfyClient) -> None:
    served = client.get("/i18n")
    for folder in LOCALES.iterdir():
        words = served[folder.name]
        definitions = json.loads((folder / "nodeDefs.json").read_text(encoding="utf-8"))
        assert {name: words["nodeDefs"][name] for name in definitions} == definitions
        assert json.loads((folder / "main.json").read_text(encoding="utf-8")).items() <= words.items()


@pytest.fixture
def page(browser: Browser, server: ComfyServer, client: ComfyClient) -> Iterator[Page]:
    """An editor that has not been opened yet, so that a test may choose its language first."""
    client.post("/settings", {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False})
    context = browser.new_context(viewport={"width": 1500, "height": 1000})
    yield context.new_page()
    context.close()
    client.post("/settings", {"Comfy.Locale": "en"})


def open_editor(page: Page, address: str) -> None:
    page.add_init_script("localStorage.setItem('vueNodesBannerDismissed', 'true')")
    page.goto(address)
    page.wait_for_function("() => window.app?.graph && document.querySelector('#graph-canvas') !== null", timeout=60_000)
    expect(page.locator(".p-blockui-mask")).to_have_count(0, timeout=30_000)


def show(page: Page, node: str) -> None:
    """Put one node on the empty canvas, and select it."""
    page.evaluate(
        """(type) => {
            window.app.graph.clear()
            const node = window.LiteGraph.createNode(type)
            node.pos = [500, 300]
            window.app.graph.add(node)
            window.app.canvas.ds.reset()
            window.app.canvas.selectNode(node)
            window.app.canvas.setDirty(true, true)
        }""",
        node,
    )
    page.wait_for_timeout(1_000)


@pytest.mark.browser
@pytest.mark.parametrize("language", ["zh", "ja", "fr"])
def test_a_node_is_shown_in_the_users_language(
    language: str, page: Page, server: ComfyServer, client: ComfyClient, screenshots: Path
) -> None:
    client.post("/settings", {"Comfy.Locale": language})
    open_editor(page, server.address)
    page.wait_for_function(
        "(name) => document.querySelector('#vue-app').__vue_app__.config.globalProperties.$i18n.locale === name", arg=language
    )
    assert page.evaluate(_MERGE_WORDS, language) == language
    show(page, "FaceCLIPDetectFaces")
    page.screenshot(path=screenshots / f"node_{language}.png")
    words = json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))["FaceCLIPDetectFaces"]
    shown = page.evaluate(
        """() => {
            const [node] = window.app.graph.nodes
            const labels = (slots) => slots.map((slot) => slot.label || slot.localized_name || slot.name)
            return { title: node.title, inputs: labels(node.inputs), outputs: labels(node.outputs) }
        }"""
    )
    assert shown["title"] == words["display_name"]
    assert set(shown["inputs"]) == {entry["name"] for entry in words["inputs"].values()}
    assert shown["outputs"] == [entry["name"] for entry in words["outputs"].values()]
    # Tooltips are looked up when the pointer rests on something; braces, at signs and bars would not come out as written.
    tooltips = {name: entry["tooltip"] for name, entry in words["inputs"].items()}
    assert page.evaluate(_TOOLTIPS, list(tooltips)) == tooltips


@pytest.mark.browser
def test_the_help_panel_shows_the_page_with_its_picture(page: Page, server: ComfyServer, screenshots: Path) -> None:
    open_editor(page, server.address)
    show(page, "FaceCLIPDetectFaces")
    page.get_by_test_id("info-button").click()
    panel = page.locator(".node-help-content")
    expect(panel.get_by_role("heading", name="Common mistakes")).to_be_visible()
    page.wait_for_function("() => document.querySelector('.node-help-content img')?.naturalWidth > 0")
    page.screenshot(path=screenshots / "help_panel.png")
