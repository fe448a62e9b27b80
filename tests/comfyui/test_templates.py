"""ComfyUI's template browser: the pack's workflows with their thumbnails."""

from __future__ import annotations

import urllib.request
from pathlib import Path

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
        with urllib.request.urlopen(f"{server.address}/api/workflow_templates/{module}/{name}.jpg") as answer:
            assert answer.read() == (ROOT / "workflows" / f"{name}.jpg").read_bytes()


@pytest.mark.browser
def test_the_template_browser_shows_them(editor: Page, screenshots: Path) -> None:
    editor.get_by_role("button", name="Templates").first.click()
    dialog = editor.get_by_role("dialog")
    dialog.get_by_text("FaceCLIP", exact=True).first.click()
    editor.wait_for_function(_DRAWN, arg=NAMES, timeout=30_000)
    editor.screenshot(path=screenshots / "templates.png")
