"""The demo as users run it: a photo in, one contact sheet out."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo.__main__ import PEOPLE, PROMPTS, main
from demo.client import ComfyClient
from demo.contact_sheet import Panel, Sheet, draw_sheet
from demo.judging import JudgeError, likeness
from demo.link import ROOT
from demo.photo import PhotoError, user_photo
from demo.progress import ProgressBar


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
    assert "likeness" not in said, "the judge knows drawn people only"
    page = Image.open(sheet)
    assert page.width > (2 + len(PROMPTS)) * 300 and page.height > 300
    assert sorted((comfyui_path / "custom_nodes").iterdir()) == packs, "the pack's link is gone again"


@pytest.mark.server
def test_pictures_of_drawn_people_are_judged_and_look_more_like_their_own_reference(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    means = {
        made: {other: float(score) for other, score in re.findall(r"to (\w+) (-?[\d.]+)", told)}
        for made, told in re.findall(r"Pictures made of (\w+): mean likeness (.*)", capsys.readouterr().out)
    }
    one, two = (path.stem for path in PEOPLE)
    assert means[one][one] + means[two][two] > means[two][one] + means[one][two]
    pictures = [tmp_path / f"{name}_{number}.png" for name in (one, two) for number in range(1, len(PROMPTS) + 1)]
    assert len({path.read_bytes() for path in pictures}) == len(pictures), "each person and each prompt makes another picture"
    assert (tmp_path / "faceclip_demo.png").is_file()


def test_a_judge_that_cannot_run_says_why(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match=r"nobody\.jpg"):
        likeness([tmp_path / "nobody.jpg"], [PEOPLE[0]], Path(sys.executable))


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
    words = ["words " * 100, "more words"]
    plain = draw_sheet(Sheet("title", words, "footer"), [panels, panels[1:]])
    warned = draw_sheet(Sheet("title", words, "footer", notice="mind the gap"), [panels, panels[1:]])
    colours = {colour: count for count, colour in plain.getcolors(plain.width * plain.height)}
    # The wide one at 600 px; the tall one, which is in both rows, at the panels' height.
    assert colours[(255, 0, 0)] == pytest.approx(600 * 300, rel=0.01)
    assert colours[(0, 0, 255)] == pytest.approx(2 * 150 * 300, rel=0.01)
    assert warned.height > plain.height


def test_progress_is_a_line_per_step_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    bar = ProgressBar(out)
    for done, label in ((0.0, "load"), (0.5, "sample"), (0.75, "sample"), (1.0, "done")):
        bar.show(done, label)
    bar.close()
    assert out.getvalue().split("\n") == ["    0%  load", "   50%  sample", "  100%  done", ""]
