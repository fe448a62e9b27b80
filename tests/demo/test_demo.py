"""The demo as users run it: a photo in, one contact sheet out."""

from __future__ import annotations

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
from demo.link import ROOT


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
