"""The commands of docs/training.md, typed: every option is one that the command knows."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
DRAWN = ("train.synthetic", "train.mini")
"""They need no file, and would begin to draw; test_end_to_end.py and their own tests run them."""


def documented() -> list[list[str]]:
    """The words of every command in a block of code that names files which are not there."""
    lines = "\n".join(re.findall(r"^```\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True) for line in lines]
    ours = [words for words in commands if words[:2] == ["python", "-m"] or words[:1] == ["faceclip"]]
    return [words for words in ours if words[2] not in DRAWN]


def test_all_commands_are_found() -> None:
    names = {words[2] if words[0] == "python" else words[0] for words in documented()}
    assert names >= {"train.prepare", "train.cache", "train.pretrain", "train.join", "train.finetune_sdxl", "faceclip"}
    assert len(documented()) >= 12


@pytest.mark.program
@pytest.mark.parametrize("words", documented(), ids=lambda words: " ".join(words)[:60])
def test_a_command_gets_as_far_as_its_first_missing_file(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    module, rest = ("faceclip.cli", words[1:]) if words[0] == "faceclip" else (words[2], words[3:])
    command = importlib.import_module(module if module in ("faceclip.cli", "train.export", "train.join") else f"{module}.command")
    assert command.main(rest) in (1, 2)  # it returns: an unknown option ends the process
    error = capsys.readouterr().err
    assert re.search(
        r"There is no|does not exist|No file|no such|not there|cannot be|neither|found nothing", error, re.IGNORECASE
    ), error
    assert not list(tmp_path.glob("RUN*/checkpoints/*"))
