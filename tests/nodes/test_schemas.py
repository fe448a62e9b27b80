"""What the nodes promise to the front end, to older and newer ComfyUI, and to the user's own folders."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

NODE_IDS = {
    "FaceCLIPFaceDetectorLoader": "Load Face Detector",
    "FaceCLIPDetectFaces": "Detect Faces",
    "FaceCLIPEncoderLoader": "Load FaceCLIP Encoder",
    "FaceCLIPEncodeIdentity": "Encode Identity",
    "FaceCLIPBlendIdentities": "Blend Identities",
    "FaceCLIPSaveIdentity": "Save Identity",
    "FaceCLIPLoadIdentity": "Load Identity",
    "FaceCLIPTextEncode": "FaceCLIP Text Encode",
    "FaceCLIPUNetLoader": "Load FaceCLIP UNet",
    "FaceCLIPFaceSimilarity": "Rank by Face Similarity",
    "FaceCLIPT5Loader": "Load FaceT5",
    "FaceCLIPT5TextEncode": "FaceT5 Text Encode",
    "FaceCLIPLoader": "Load FaceCLIP",
    "FaceCLIPExampleFace": "Example Face",
}


def test_ids_and_names_are_those_that_workflows_rely_on(pack: dict) -> None:
    assert {node_id: node.define_schema().display_name for node_id, node in pack.items()} == NODE_IDS


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_everything_on_a_node_explains_itself(node_id: str, pack: dict) -> None:
    schema = pack[node_id].define_schema()
    schema.validate()
    assert schema.description and schema.category.split("/")[0] == "FaceCLIP"
    assert all(item.tooltip for item in (*schema.inputs, *schema.outputs))
    assert all(output.display_name for output in schema.outputs)


def test_combos_start_with_a_file_of_the_right_kind(pack: dict) -> None:
    unet = pack["FaceCLIPUNetLoader"].define_schema().inputs[0]
    encoder = pack["FaceCLIPEncoderLoader"].define_schema().inputs[0]
    assert unet.default == "faceclip_mini_unet.safetensors" and unet.default in unet.options
    assert encoder.default == "faceclip_mini_encoder.safetensors" and encoder.default in encoder.options


def test_options_newer_than_the_running_comfyui_are_left_out(pack_module: Any) -> None:
    newer = sys.modules[f"{pack_module.__name__}.nodes.compat"].newer

    def old(node_id: str) -> None: ...

    def new(node_id: str, search_aliases: list | None = None) -> None: ...

    assert newer(old, search_aliases=["face"]) == {}
    assert newer(new, search_aliases=["face"]) == {"search_aliases": ["face"]}


def test_folders_of_the_users_own_configuration_stay_and_come_first(
    pack_module: Any, pack: dict, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "faceclip", ([str(tmp_path)], set()))
    sys.modules[f"{pack_module.__name__}.nodes.folders"].register_folders()
    paths, extensions = folder_paths.folder_names_and_paths["faceclip"]
    assert paths[0] == str(tmp_path) and len(paths) == 3
    assert {".safetensors", ".pt"} <= extensions
    (tmp_path / "own.pt").write_bytes(b"x")
    assert "own.pt" in folder_paths.get_filename_list("faceclip")
