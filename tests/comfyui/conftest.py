"""The browser, the photo in the server's input folder, and the pack as others get it."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from demo.client import ComfyClient
from demo.link import ROOT
from demo.server import ComfyServer
from demo.setup import CHROMIUMS

_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_SETTINGS = {
    "Comfy.TutorialCompleted": True,  # a first visit opens the templates over the canvas
    # For the screenshots: words on the nodes at every zoom, nothing over the graph.
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,
    "Comfy.Minimap.Visible": False,
}


def png(picture: np.ndarray) -> bytes:
    """uint8 [H, W, 3] as a file."""
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "PNG")
    return content.getvalue()


@pytest.fixture(scope="session")
def client(server: ComfyServer) -> ComfyClient:
    return ComfyClient(server.address)


@pytest.fixture(scope="session")
def photo(client: ComfyClient, astronaut: np.ndarray) -> str:
    """The astronaut in ComfyUI's input folder, by the name that `LoadImage` takes."""
    return client.upload_photo("astronaut.png", png(astronaut))


@pytest.fixture(scope="session")
def other_photo(client: ComfyClient) -> str:
    """Another picture with a face, by the name that `LoadImage` takes."""
    from train.synthetic.portrait import World  # with torch: collecting these tests takes half as long without

    world = World(0, 512)
    scene = next(scene for scene in (world.scene(k) for k in range(100)) if scene.framing == "close-up")
    drawn = world.portrait_from(world.person(1), scene)
    return client.upload_photo("drawn.png", png(drawn.image))


@pytest.fixture(scope="module")  # not longer: Playwright keeps an event loop, and then nobody else can run one
def browser() -> Iterator[Browser]:
    """A headless Chromium: the system's, else the one that Playwright installed."""
    system = next((path for name in CHROMIUMS if (path := shutil.which(name))), None)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=system, args=_FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def editor(browser: Browser, server: ComfyServer, client: ComfyClient, photo: str) -> Iterator[Page]:
    """ComfyUI's editor, loaded, with nothing remembered from earlier and the photo among its inputs."""
    client.post("/settings", _SETTINGS)
    context = browser.new_context(viewport={"width": 2200, "height": 1300})
    context.add_init_script("localStorage.setItem('vueNodesBannerDismissed', 'true')")
    page = context.new_page()
    page.set_default_timeout(120_000)  # two cores may run a server, a browser and other tests
    page.goto(server.address)
    page.wait_for_function("() => window.app?.graph && document.querySelector('#graph-canvas') !== null", timeout=60_000)
    expect(page.locator(".p-blockui-mask")).to_have_count(0, timeout=30_000)  # the veil over a page that still loads
    yield page
    context.close()


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """Where pictures of the editor are kept for people to look at."""
    folder = ROOT / ".dev" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pack's tracked files as they are now, committed or not, and nothing else."""
    folder = tmp_path_factory.mktemp("export") / "faceclip"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def run_tool() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run_tool("comfy", "node validate", folder)`: a command of the virtual environment, in a folder."""

    def run(tool: str, arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        program = Path(sys.executable).with_name(tool)
        changed = {**os.environ, **environment}
        return subprocess.run([program, *shlex.split(arguments)], cwd=folder, env=changed, capture_output=True, text=True)

    return run
