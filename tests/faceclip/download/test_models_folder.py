"""Finding ComfyUI's models folder from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from faceclip.download import models_folder as module
from faceclip.download.models_folder import NoModelsFolderError, models_folder


@pytest.fixture
def comfyui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "Comfy UI"
    for folder in ("models", "comfy", "custom_nodes/faceclip/faceclip", "output"):
        (root / folder).mkdir(parents=True)
    (root / "main.py").touch()
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.chdir(tmp_path)
    return root


def test_a_given_folder_is_taken_and_comfyui_itself_will_do(comfyui, tmp_path):
    assert models_folder(tmp_path) == tmp_path
    assert models_folder(comfyui) == models_folder(comfyui / "models") == comfyui / "models"
    with pytest.raises(NoModelsFolderError, match="There is no folder .*typo"):
        models_folder(comfyui / "typo")


def test_it_is_found_from_the_variable_from_where_the_pack_lies_and_from_the_current_folder(comfyui, tmp_path, monkeypatch):
    with pytest.raises(NoModelsFolderError, match="--to"):
        models_folder()
    monkeypatch.setenv("COMFYUI_PATH", str(comfyui))
    assert models_folder() == comfyui / "models"
    monkeypatch.delenv("COMFYUI_PATH")
    monkeypatch.chdir(comfyui / "output")
    assert models_folder() == comfyui / "models"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        module, "__file__", str(comfyui / "custom_nodes" / "faceclip" / "faceclip" / "download" / "models_folder.py")
    )
    assert models_folder() == comfyui / "models"
