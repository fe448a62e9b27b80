"""What the demo is made of, without a server: photo, judge, contact sheet, progress."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo.__main__ import PEOPLE, main
from demo.contact_sheet import Panel, Sheet, draw_sheet
from demo.judging import JudgeError, likeness
from demo.photo import PhotoError, user_photo
from demo.photo import main as read_photo
from demo.progress import ProgressBar


@pytest.mark.program
def test_a_judge_that_cannot_run_says_why(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match=r"nobody\.jpg"):
        likeness([tmp_path / "nobody.jpg"], [PEOPLE[0]], Path(sys.executable))


def test_a_photo_that_cannot_be_used_is_refused_before_anything_starts(
    comfyui_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "nowhere.jpg"
    assert main([str(missing), "--comfyui", str(comfyui_path), "--out", str(tmp_path)]) == 1
    assert f"There is no photo at {missing}" in capsys.readouterr().err
    assert not (tmp_path / "comfyui.log").exists()


def test_damaged_and_foreign_files_are_told_apart(
    tmp_path: Path, astronaut: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    assert read_photo(str(text)) == 1
    assert capsys.readouterr().err.startswith(f"{text} is not an image that Pillow can read")
    whole = io.BytesIO()
    Image.fromarray(astronaut).save(whole, "JPEG")
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(whole.getvalue()[:5000])
    with pytest.raises(PhotoError, match=r"cut\.jpg is damaged or cut short"):
        user_photo(cut, Path(sys.executable))
    lacks_its_end = tmp_path / "sent.jpg"
    lacks_its_end.write_bytes(whole.getvalue()[:-2])
    assert read_photo(str(lacks_its_end)) == 0, "what the nodes read is no worse here"


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
