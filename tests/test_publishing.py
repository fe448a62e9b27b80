"""The workflows that test and publish, and what they rely on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def workflow(name: str) -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8"))
    loaded["on"] = loaded.pop(True)  # YAML 1.1 reads `on` as a truth value
    return loaded


def steps(job: dict[str, Any], key: str) -> list[str]:
    return [step[key] for step in job["steps"] if key in step]


def test_tests_run_on_three_systems_and_every_supported_python() -> None:
    jobs = workflow("test")["jobs"]
    assert set(jobs["pack"]["strategy"]["matrix"]["os"]) == {"windows-latest", "macos-latest"}
    (oldest,) = re.findall(r'^requires-python = ">=([\d.]+)"$', PROJECT, flags=re.MULTILINE)
    for job in ("everything", "pack"):
        assert jobs[job]["strategy"]["matrix"]["python"][0] == oldest
    assert steps(jobs["everything"], "run") == ["python dev.py test"], "what developers run"
    for job in jobs.values():
        for command in steps(job, "run"):
            _, script, _, *paths = command.split()
            assert script == "dev.py" and all((ROOT / path).exists() for path in paths)


def test_publishing_waits_for_the_tests_and_has_no_more_rights_than_it_needs() -> None:
    publish = workflow("publish")
    jobs = publish["jobs"]
    assert publish["on"] == {"push": {"tags": ["v[0-9]+.[0-9]+.[0-9]+"]}}
    assert publish["permissions"] == {"contents": "read"}
    assert jobs["test"]["uses"] == "./.github/workflows/test.yml" and "workflow_call" in workflow("test")["on"]
    assert jobs["publish"]["needs"] == "test"
    (repository,) = re.findall(r'^Repository = "https://github\.com/(.+)"$', PROJECT, flags=re.MULTILINE)
    assert f"'{repository}'" in jobs["publish"]["if"], "forks do not publish"
    assert steps(jobs["publish"], "uses")[-1] == "Comfy-Org/publish-node-action@v1"


def test_the_changelog_is_kept_in_the_agreed_form_and_covers_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    assert headings and all(re.fullmatch(r"\[Unreleased\]|\[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}", line) for line in headings)
    kinds = set(re.findall(r"^### (.+)$", text, flags=re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    (version,) = re.findall(r'^version = "(\d+\.\d+\.\d+)"$', PROJECT, flags=re.MULTILINE)
    assert f"[{version}]" in text or f"To be released as {version}" in text


def test_contributing_names_only_what_there_is() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[\w.]+/)+[\w.]*|dev\.py|[A-Z]+\.md|pyproject\.toml|\.comfyignore)`", text)) - {".dev/"}
    assert {"nodes/", "faceclip/", "tests/test_house.py", "scripts/draw_icon.py", ".github/workflows/publish.yml"} <= named
    folders = (ROOT, ROOT / "docs" / "images", ROOT / "train")
    absent = [name for name in named if not any((folder / name).exists() for folder in folders)]
    assert absent == []
