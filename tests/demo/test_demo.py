"""The demo as users run it: a photo in, one contact sheet out."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo.__main__ import STAND_IN_NOTICE, main
from demo.client import ComfyClient
from demo.contact_sheet import Panel, Sheet, draw_sheet
from demo.link import ROOT
from demo.photo import PhotoError, user_photo
from demo.progress import ProgressBar
from demo.stand_in import untrained


@pytest.fixture
def arguments(comfyui_path: Path, tmp_path: Path) -> list[str]:
    return ["--comfyui", str(comfyui_path), "--server-argument=--cpu", "--out", str(tmp_path)]


@pytest.mark.server
def test_a_users_photo_becomes_a_contact_sheet(
    arguments: list[str], astronaut: np.ndarray, tmp_path: Path, comfyui_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = tmp_path / "me.jpg"
    Image.fromarray(astronaut).save(photo, quality=95)
    packs = sorted((comfyui_path / "custom_nodes").iterdir())

    assert main([str(photo), *arguments]) == 0

    said = capsys.readouterr().out
    sheet = tmp_path / "faceclip_demo_me.png"
    assert f"The picture: {sheet}" in said
    assert "KSampler" in said and "ComfyUI 0." in said and "torch" in said
    assert (STAND_IN_NOTICE in said) == bool(untrained((ROOT / "models").rglob("*.safetensors")))
    page = Image.open(sheet)
    assert page.width > 3 * 448 and page.height > 448
    assert sorted((comfyui_path / "custom_nodes").iterdir()) == packs, "the pack's link is gone again"


@pytest.mark.server
def test_keep_leaves_a_server_that_answers_and_says_how_to_end_it(arguments: list[str], comfyui_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "demo", *arguments, "--keep"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    address, pid = last.split("stays up at ")[1].split(";")[0], int(last.split()[-1])
    try:
        assert "FaceCLIPTextEncode" in ComfyClient(address).get("/object_info")
    finally:
        os.kill(pid, signal.SIGTERM)
        (comfyui_path / "custom_nodes" / "faceclip").unlink(missing_ok=True)


@pytest.mark.server
def test_ctrl_c_takes_the_server_and_the_link_away(comfyui_path: Path) -> None:
    packs = sorted((comfyui_path / "custom_nodes").iterdir())
    command = [sys.executable, ROOT / "dev.py", "demo", "--comfyui", comfyui_path, "--python", sys.executable]

    def listen() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # which jobs in a shell's background inherit as ignored

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=listen) as process:
        assert process.stdout is not None
        address = next(line.split()[-1] for line in process.stdout if "ready after" in line)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to everything in it
        assert process.wait(timeout=60) == 130
    with pytest.raises(OSError):
        ComfyClient(address).get("/system_stats")
    assert sorted((comfyui_path / "custom_nodes").iterdir()) == packs


def test_a_photo_that_cannot_be_used_is_refused_before_anything_starts(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "nowhere.jpg"
    assert main([str(missing), *arguments]) == 1
    assert f"There is no photo at {missing}" in capsys.readouterr().err
    assert not (tmp_path / "comfyui.log").exists()


def test_damaged_and_foreign_files_are_told_apart(tmp_path: Path, astronaut: np.ndarray) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    with pytest.raises(PhotoError, match="not a picture that can be read"):
        user_photo(text)
    whole = io.BytesIO()
    Image.fromarray(astronaut).save(whole, "JPEG")
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(whole.getvalue()[:5000])
    with pytest.raises(PhotoError, match="damaged or cut short"):
        user_photo(cut)


def test_the_sheet_holds_its_panels_and_warns_only_if_there_is_something_to_warn_of() -> None:
    red, blue = Image.new("RGB", (100, 50), "red"), Image.new("RGB", (64, 128), "blue")
    panels = [Panel(red, "one", ""), Panel(blue, "two", "")]
    plain = draw_sheet(Sheet("title", "words " * 100, "footer"), panels)
    warned = draw_sheet(Sheet("title", "words " * 100, "footer", notice="mind the gap"), panels)
    colours = {colour: count for count, colour in plain.getcolors(plain.width * plain.height)}
    # The wide one at 800 px, half as high; the tall one at the panels' height of 448 px.
    assert colours[(255, 0, 0)] == pytest.approx(800 * 400, rel=0.01)
    assert colours[(0, 0, 255)] == pytest.approx(224 * 448, rel=0.01)
    assert warned.height > plain.height


def test_files_say_themselves_whether_they_are_trained(tmp_path: Path) -> None:
    def file(name: str, metadata: dict[str, str]) -> Path:
        header = json.dumps({"__metadata__": metadata}).encode()
        path = tmp_path / name
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        return path

    stand_in, trained = file("a", {"trained": "false"}), file("b", {"trained": "true"})
    assert untrained([stand_in, trained, file("c", {})]) == [stand_in]


def test_progress_is_a_line_per_step_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    bar = ProgressBar(out)
    for done, label in ((0.0, "load"), (0.5, "sample"), (0.75, "sample"), (1.0, "done")):
        bar.show(done, label)
    bar.close()
    assert out.getvalue().split("\n") == ["    0%  load", "   50%  sample", "  100%  done", ""]
