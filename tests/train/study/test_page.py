"""The blind study's page in a real Chromium."""

from __future__ import annotations

import csv
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from demo.setup import CHROMIUMS
from train.study.votes import QUESTIONS, VoteFile, find_pairs

from .pictures import A_COLOUR, B_COLOUR

ROOT = Path(__file__).resolve().parents[3]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")  # not longer: Playwright keeps an event loop, and then nobody else can run one
def browser() -> Iterator[Browser]:
    system = next((path for name in CHROMIUMS if (path := shutil.which(name))), None)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=system, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def address(folders: Path) -> Iterator[str]:
    """The page, served for three questions."""
    from train.study.page import launch

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pairs = find_pairs(folders / "a", folders / "b", str(folders / "p.csv"))
    page = launch(pairs, VoteFile(folders / "votes.csv"), port, block=False)
    yield f"http://127.0.0.1:{port}"
    page.close()


def colour_of(page: Page, side: str) -> tuple[int, ...]:
    """The middle pixel of a picture as it is on the screen."""
    import io

    shot = page.locator(f"#{side} img").screenshot()
    picture = Image.open(io.BytesIO(shot)).convert("RGB")
    pixel = picture.getpixel((picture.width // 2, picture.height // 2))
    assert isinstance(pixel, tuple)
    return pixel


@pytest.mark.browser
def test_a_voter_clicks_through_comes_back_and_finishes(browser: Browser, folders: Path, address: str) -> None:
    screenshots = ROOT / ".dev" / "screenshots"
    screenshots.mkdir(parents=True, exist_ok=True)
    asked: list[str] = []
    seen: dict[str, tuple[int, ...]] = {}

    def enter() -> Page:
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.locator("#start").click()
        expect(page.get_by_text("Please enter a name first")).to_be_visible(timeout=30_000)
        page.locator("#voter textarea, #voter input").fill("ann")
        page.locator("#start").click()
        return page

    def answer(page: Page) -> None:
        """Choose the left one wherever a question is asked."""
        page.wait_for_timeout(500)
        prompt = page.locator("#prompt textarea, #prompt input").input_value()
        expect(page.locator("#left img")).to_be_visible()
        page.wait_for_function("() => [...document.querySelectorAll('.pair img')].every((i) => i.naturalWidth > 0)")
        seen[prompt.split()[-1]] = colour_of(page, "left")
        for question in QUESTIONS:
            if page.locator(f"#{question}").is_visible():
                page.locator(f"#{question}").get_by_label("Left", exact=True).check()
        if page.locator("#reference").is_visible():
            page.screenshot(path=screenshots / "study_pair.png")
        page.locator("#save").click()

    page = enter()
    expect(page.locator("#progress")).to_contain_text("Pair 1 of 4", timeout=30_000)
    page.locator("#save").click()
    expect(page.get_by_text("Please answer every question")).to_be_visible()
    answer(page)
    expect(page.locator("#progress")).to_contain_text("Pair 2 of 4")
    page.close()

    page = enter()
    for number in (2, 3, 4):
        expect(page.locator("#progress")).to_contain_text(f"Pair {number} of 4", timeout=30_000)
        answer(page)
    expect(page.locator("#progress")).to_contain_text("all 4 pairs are done")
    page.screenshot(path=screenshots / "study_end.png")
    page.close()

    rows = list(csv.DictReader((folders / "votes.csv").open()))
    assert len(rows) == 3 * 3 + 2, "the pair without a reference has no question about the person"
    assert {row["voter"] for row in rows} == {"ann"}
    assert all(row["choice"] == row["left"] for row in rows), "the left one was chosen"
    for row in rows:
        shown = np.array(seen[row["pair"].removeprefix("x/")])
        expected = A_COLOUR if row["left"] == "A" else B_COLOUR
        assert np.abs(shown - expected).max() < 12, "what was recorded as left was on the left"
    assert {row["left"] for row in rows} == {"A", "B"}
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == [], "nothing comes from elsewhere"
    assert not any("/a/" in url or "/b/" in url or ".png" in url.split("/")[-1] for url in asked if "/file=" in url)
