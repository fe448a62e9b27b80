"""The pack in a core newer than 0.3.75, by a stand-in of what that core
promises: more fields, and checks of its own."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHOW = {
    "FaceCLIPDetectFaces",
    "FaceCLIPEncoderLoader",
    "FaceCLIPTextEncode",
    "FaceCLIPFaceSimilarity",
    "FaceCLIPT5Loader",
    "FaceCLIPT5TextEncode",
    "FaceCLIPLoader",
    "FaceCLIPExampleFace",
}
"""Nodes that show something on themselves and are no output nodes."""
ADVANCED = {
    "FaceCLIPFaceDetectorLoader": {"pack", "provider"},
    "FaceCLIPDetectFaces": {"min_confidence", "on_no_face"},
    "FaceCLIPEncoderLoader": {"dtype"},
    "FaceCLIPEncodeIdentity": {"weights"},
    "FaceCLIPTextEncode": {"width", "height", "long_prompts", "strength_schedule"},
    "FaceCLIPUNetLoader": {"weight_dtype"},
    "FaceCLIPT5Loader": {"dtype"},
    "FaceCLIPLoader": {"dtype", "weight_dtype"},
}
FILES = {
    "FaceCLIPEncoderLoader": ("encoder_name", "face_clip_encoder.pt"),
    "FaceCLIPUNetLoader": ("unet_name", "unet.pt"),
    "FaceCLIPT5Loader": ("facet5_name", "face_t5_encoder.pt"),
}


@pytest.fixture(scope="module")
def newer_pack(pack: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The pack's nodes, loaded where Schema and inputs take what the newer core's take; `test_schemas` has 0.3.75's."""
    from comfy_api.latest import io

    @dataclasses.dataclass
    class Schema(io.Schema):
        has_intermediate_output: bool = False
        search_aliases: list[str] | None = None

    def with_advanced(kind: type) -> type:
        class Input(kind):
            def __init__(self, *values: Any, advanced: bool | None = None, **options: Any):
                super().__init__(*values, **options)
                self.advanced = advanced

        Input.__init__.__signature__ = _widened(kind)  # pyright: ignore[reportAttributeAccessIssue]
        return Input

    name = "custom_nodes_faceclip_newer"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "Schema", Schema)
        for widget in (io.Combo, io.Int, io.Float, io.String):
            patch.setattr(widget, "Input", with_advanced(widget.Input))
        spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)

        async def load() -> list[Any]:
            return await (await module.comfy_entrypoint()).get_node_list()

        yield {node.define_schema().node_id: node for node in asyncio.run(load())}
        for loaded in [other for other in sys.modules if other.startswith(f"{name}.")]:
            del sys.modules[loaded]


def _widened(kind: type) -> inspect.Signature:
    known = inspect.signature(kind.__init__)
    more = inspect.Parameter("advanced", inspect.Parameter.KEYWORD_ONLY, default=None)
    return known.replace(parameters=[*known.parameters.values(), more])


def refusals(node: Any, inputs: dict[str, Any]) -> list[str]:
    """What the core says of a node's inputs since 0.7: combos are its own to
    check, unless `validate_inputs` names them."""
    named = inspect.getfullargspec(node.validate_inputs).args if "validate_inputs" in vars(node) else []
    problems = []
    info = node.GET_NODE_INFO_V1()["input"]
    for group in (info.get("required", {}), info.get("optional", {})):
        for name, (kind, options) in group.items():
            if kind == "COMBO" and name in inputs and name not in named and inputs[name] not in options["options"]:
                problems.append(f"Value not in list: {name}: '{inputs[name]}'")
    if asked := {name: value for name, value in inputs.items() if name in named}:
        answer = node.validate_inputs(**asked)
        problems += [f"{name} - {answer}" for name in asked if answer is not True]
    return problems


def test_what_nodes_show_is_there_after_the_page_is_loaded_again(newer_pack: dict[str, Any]) -> None:
    schemas = {node_id: node.define_schema() for node_id, node in newer_pack.items()}
    assert {node_id for node_id, schema in schemas.items() if schema.has_intermediate_output} == SHOW
    assert not any(schemas[node_id].is_output_node for node_id in SHOW)


def test_what_an_artist_seldom_turns_is_folded_away(newer_pack: dict[str, Any]) -> None:
    found = {
        node_id: {widget.id for widget in node.define_schema().inputs if getattr(widget, "advanced", None)}
        for node_id, node in newer_pack.items()
    }
    assert {node_id: names for node_id, names in found.items() if names} == ADVANCED


@pytest.mark.parametrize("node_id", FILES)
def test_a_missing_file_is_named_with_folder_address_and_size_before_the_run(node_id: str, newer_pack: dict[str, Any]) -> None:
    name, file = FILES[node_id]
    (problem,) = refusals(newer_pack[node_id], {name: file})
    assert problem.startswith(f"{name} - There is no file {file}. Put it in one of these folders: ")
    for told in ("models/faceclip", f"https://huggingface.co/ByteDance/FaceCLIP/resolve/main/model/{file}", " GB"):
        assert told in problem.replace("\\", "/")


def test_of_several_files_the_missing_one_is_told_with_its_input(newer_pack: dict[str, Any]) -> None:
    files = {"encoder_name": "faceclip_mini_encoder.safetensors", "unet_name": "unet.pt"}
    told = refusals(newer_pack["FaceCLIPLoader"], files)
    assert [problem.split(". Put it ")[0] for problem in told] == [
        f"{name} - unet_name: There is no file unet.pt" for name in files
    ], "the core has one answer for all that are asked about"


def test_a_saved_identity_that_has_gone_is_named(newer_pack: dict[str, Any]) -> None:
    (problem,) = refusals(newer_pack["FaceCLIPLoadIdentity"], {"file_name": "gone.safetensors"})
    assert "There is no file gone.safetensors. Put it in one of these folders: " in problem
    assert "faceclip_identities" in problem


def test_a_file_that_is_there_and_one_that_a_link_brings_pass(newer_pack: dict[str, Any]) -> None:
    loader = newer_pack["FaceCLIPEncoderLoader"]
    assert refusals(loader, {"encoder_name": "faceclip_mini_encoder.safetensors"}) == []
    assert loader.validate_inputs() is True and loader.validate_inputs(encoder_name=None) is True
    assert newer_pack["FaceCLIPSaveIdentity"].validate_inputs() is True


def test_where_no_file_is_to_be_chosen_the_folder_is_named(newer_pack: dict[str, Any]) -> None:
    (problem,) = refusals(newer_pack["FaceCLIPLoadIdentity"], {"file_name": ""})
    assert "No file is chosen. Put one in one of these folders: " in problem


def test_other_combos_stay_the_cores_to_check(newer_pack: dict[str, Any]) -> None:
    known = {"encoder_name": "faceclip_mini_encoder.safetensors", "dtype": "int4"}
    assert refusals(newer_pack["FaceCLIPEncoderLoader"], known) == ["Value not in list: dtype: 'int4'"]


def test_errors_have_a_short_public_name_before_the_sentence(pack_module: Any, pack: dict[str, Any]) -> None:
    library = sys.modules[f"{pack_module.__name__}.faceclip"]
    for name in ("CheckpointError", "FaceError", "NoFaceError", "DetectorUnavailableError"):
        error = getattr(library, name)
        assert f"{error.__module__}.{error.__qualname__}" == f"faceclip.{name}"
