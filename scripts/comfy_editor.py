"""A ComfyUI with the pack, and its editor in a Chromium: for the scripts that take pictures of it.

The ComfyUI is the one that `python dev.py demo` fetched, or the one
at COMFYUI_PATH; Playwright must have a Chromium.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # for the demo's server and client, which are no installed package; last, since ComfyUI has a `nodes`

from demo.client import ComfyClient  # noqa: E402
from demo.scratch import scratch_server  # noqa: E402
from demo.setup import CHROMIUMS  # noqa: E402

SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,
    "Comfy.Minimap.Visible": False,
    "Comfy.Workflow.Persist": False,
    "Comfy.EnableTooltips": False,
}


@contextmanager
def comfyui(front_end: Path | None = None) -> Iterator[tuple[str, ComfyClient]]:
    """A server with the pack in it and folders of its own; gives its address and a client.

    `front_end` is the folder `static` of another comfyui-frontend-package than the environment's.
    """
    arguments = ["--front-end-root", str(front_end.resolve())] if front_end else []
    with scratch_server(*arguments) as (server, _):
        client = ComfyClient(server.address)
        client.post("/settings", SETTINGS)
        yield server.address, client


@contextmanager
def editor(address: str, width: int, height: int) -> Iterator[Any]:
    """A page of Playwright's with the editor at `address` loaded, of so many pixels."""
    from playwright.sync_api import sync_playwright

    system = next((path for name in CHROMIUMS if (path := shutil.which(name))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=system, args=["--no-sandbox", "--disable-gpu", "--disable-quic"])
        page = browser.new_page(viewport={"width": width, "height": height})
        page.add_init_script("localStorage.setItem('vueNodesBannerDismissed', 'true')")
        page.set_default_timeout(300_000)  # milliseconds; something else may keep the machine busy
        page.goto(address)
        page.wait_for_function("() => window.app?.graph && document.querySelector('#graph-canvas') !== null")
        page.wait_for_function("() => !document.querySelector('.p-blockui-mask')")
        yield page
        browser.close()
