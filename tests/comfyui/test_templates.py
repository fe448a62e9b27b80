"""ComfyUI's template browser: the pack's workflows with their thumbnails."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Page

from demo.client import ComfyClient
from demo.link import ROOT
from demo.server import ComfyServer

NAMES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
# Loaded, of their size, and at least two rows of them: the browser draws more when one scrolls.
_DRAWN = """(names) => {
    const shown = [...document.querySelectorAll('[role=dialog] img')].filter((image) => image.naturalWidth === 400)
    const told = document.querySelector('[role=dialog]').innerText
    return shown.length >= 8 && names.filter((name) => told.includes(name)).length >= 8
}"""


def test_the_server_lists_every_workflow_and_serves_its_thumbnail(server: ComfyServer, client: ComfyClient) -> None:
    ((module, listed),) = client.get("/workflow_templates").items()
    assert sorted(listed) == NAMES
    for name in NAMES:
        with urllib.request.urlopen(f"{server.address}/api/workflow_templates/{module}/{quote(name)}.jpg") as answer:
            assert answer.read() == (ROOT / "workflows" / f"{name}.jpg").read_bytes()


@pytest.mark.browser
def test_the_template_browser_shows_them_in_their_order(editor: Page, screenshots: Path) -> None:
    # Of itself it shows them as the server's disk lists them: by name on Windows, in no order on many others.
    editor.evaluate("() => window.app.extensionManager.setting.set('Comfy.Templates.SortBy', 'alphabetical')")
    editor.get_by_role("button", name="Templates").first.click()
    dialog = editor.get_by_role("dialog")
    dialog.get_by_text("FaceCLIP", exact=True).first.click()
    editor.wait_for_function(_DRAWN, arg=NAMES, timeout=30_000)
    editor.screenshot(path=screenshots / "templates.png")
    told = dialog.inner_text()
    shown = sorted((name for name in NAMES if name in told), key=told.index)
    assert shown == NAMES[: len(shown)]


@pytest.mark.browser
@pytest.mark.parametrize(("words", "wanted"), [("faceclip", "FaceCLIP 01 Mini demo"), ("face swap", "FaceCLIP 10 Face swap")])
def test_a_search_among_everyone_s_templates_finds_them(editor: Page, words: str, wanted: str) -> None:
    editor.get_by_role("button", name="Templates").first.click()
    dialog = editor.get_by_role("dialog")
    dialog.get_by_text("All Templates", exact=True).first.click()
    dialog.get_by_placeholder("Search...").first.fill(words)
    dialog.get_by_text(wanted, exact=True).first.wait_for()
