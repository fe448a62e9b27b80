"""What the documents tell people to type has only options that there are, and what they point to is there."""

from __future__ import annotations

import importlib
import re
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("models/*.md")])
LONGEST_README = 170  # lines
SUBCOMMANDS = {"pretrain", "latents", "list", "zero-shot", "map"}  # of train.cache and train.evaluate


def typed(path: Path) -> list[str]:
    """The command lines of a document's code blocks, whole and without comments."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    lines = (line.partition(" #")[0].strip() for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines())
    return [line for line in lines if line]


def options_by_command() -> dict[tuple[str, ...], set[str]]:
    """Of every training command that a document runs: the options it is given anywhere."""
    found: dict[tuple[str, ...], set[str]] = {}
    for line in (line for path in DOCUMENTS for line in typed(path)):
        if match := re.search(r"-m train\.(\w+) (.*)", line):
            words = match[2].split()
            command = (match[1], *(word for word in words[:1] if word in SUBCOMMANDS))
            found.setdefault(command, set()).update(word for word in words if word.startswith("--"))
    return found


OPTIONS = options_by_command()


@pytest.mark.parametrize("command", OPTIONS, ids=" ".join)
def test_every_option_of_a_documented_command_is_one(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    name, *subcommand = command
    module = f"train.{name}.command" if find_spec(f"train.{name}").submodule_search_locations else f"train.{name}"
    with pytest.raises(SystemExit):
        importlib.import_module(module).main([*subcommand, "--help"])
    known = set(re.findall(r"--[\w-]+", capsys.readouterr().out)) | {"--config"}
    assert known > OPTIONS[command]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_document_points_to_is_there(path: Path) -> None:
    targets = re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (path.parent / unquote(target)).exists()]
    assert missing == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_link_within_the_documents_has_its_heading(path: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)\s#]*\.md|)#([^)]+)\)", path.read_text(encoding="utf-8")):
        text = (path.parent / target if target else path).read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
        assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_read_in_five_minutes() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= LONGEST_README
