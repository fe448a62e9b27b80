"""The workflows are what their script makes from the nodes of a running ComfyUI."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from demo.client import ComfyClient
from demo.link import ROOT


def graphs(folder: Path) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("FaceCLIP *.json")}


def test_the_script_makes_the_committed_workflows(client: ComfyClient, tmp_path: Path) -> None:
    """So their widgets and sockets agree with the nodes, in number, order and type."""
    object_info = tmp_path / "object_info.json"
    object_info.write_text(json.dumps(client.get("/object_info")))
    script = str(ROOT / "scripts" / "make_workflows.py")
    subprocess.run([sys.executable, script, str(object_info), str(tmp_path)], check=True)
    made, committed = graphs(tmp_path), graphs(ROOT / "workflows")
    assert made.keys() == committed.keys()
    for name, graph in committed.items():
        assert made[name] == graph, name
