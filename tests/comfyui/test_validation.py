"""What the community's checkers say on a running server: comfy-test of the nodes, comfy-cli of every workflow."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from demo.client import ComfyClient
from demo.graph import read_workflow, template
from demo.server import ComfyServer

pytestmark = pytest.mark.server
RunTool = Callable[..., subprocess.CompletedProcess[str]]


def test_comfy_test_passes_every_level_up_to_validation(
    export: Path, server: ComfyServer, comfyui_path: Path, run_tool: RunTool, tmp_path: Path
) -> None:
    # It wants the pack inside a ComfyUI: this one is made of links to the real one.
    for entry in comfyui_path.iterdir():
        if entry.name != "custom_nodes":
            (tmp_path / entry.name).symlink_to(entry)
    pack = shutil.copytree(export, tmp_path / "custom_nodes" / "faceclip")
    home = tmp_path.parent / "home"  # where it leaves its logs
    home.mkdir()
    command = f"run --server-url {server.address} --level validation"
    done = run_tool("comfy-test", command, pack, HOME=str(home), COMFY_TEST_RUN_CONSUMER="0")  # comfy-test.toml says why
    assert done.returncode == 0, done.stdout + done.stderr
    for level in ("SYNTAX", "REGISTRATION", "INSTANTIATION", "VALIDATION"):
        assert f"[{level}] PASSED" in done.stdout


@pytest.fixture(scope="module")
def object_info(client: ComfyClient, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("validation") / "object_info.json"
    path.write_text(json.dumps(client.get("/object_info")), encoding="utf-8")
    return path


def validated(workflow: Path, object_info: Path, run_tool: RunTool) -> dict:
    files = f"--workflow {shlex.quote(workflow.name)} --input {object_info}"
    options = f"--skip-prompt --no-enable-telemetry --json workflow validate {files}"
    return json.loads(run_tool("comfy", options, workflow.parent).stdout)["data"]


def test_comfy_finds_neither_errors_nor_warnings_in_a_workflow(workflow: Path, object_info: Path, run_tool: RunTool) -> None:
    found = validated(workflow, object_info, run_tool)
    assert found["valid"] and found["errors"] == [] and found["warnings"] == []


def test_comfy_would_see_a_choice_that_is_none(object_info: Path, run_tool: RunTool, tmp_path: Path) -> None:
    broken = read_workflow(template("Mini demo"))
    next(node for node in broken["nodes"] if node["type"] == "KSampler")["widgets_values"][4] = "no sampler"
    (tmp_path / "broken.json").write_text(json.dumps(broken))
    assert not validated(tmp_path / "broken.json", object_info, run_tool)["valid"]
