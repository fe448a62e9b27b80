"""The translations in `locales/`: as many words as the nodes have, in
every language, and none of nodes that are gone."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCALES = ROOT / "locales"
LANGUAGES = ("en", "zh", "ja", "fr")
FOREIGN = LANGUAGES[1:]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_locales", ROOT / "scripts" / "make_locales.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def object_info(pack: dict[str, Any]) -> dict[str, Any]:
    """What the server would answer at /object_info about the pack's nodes."""
    return json.loads(json.dumps({node_id: node.GET_NODE_INFO_V1() for node_id, node in pack.items()}, default=str))


def read(language: str, name: str = "nodeDefs.json") -> dict[str, Any]:
    return json.loads((LOCALES / language / name).read_text(encoding="utf-8"))


def test_these_are_the_languages_and_files() -> None:
    # Without settings and commands of its own, the pack has no words for them.
    found = {path.relative_to(LOCALES).as_posix() for path in LOCALES.rglob("*.json")}
    assert found == {f"{language}/{name}.json" for language in LANGUAGES for name in ("main", "nodeDefs")}
    assert not list((ROOT / "web").rglob("*.js"))


def test_english_is_what_the_nodes_say(script: ModuleType, object_info: dict) -> None:
    assert read("en") == script.node_definitions(object_info), "run scripts/make_locales.py"


@pytest.mark.parametrize("language", FOREIGN)
def test_every_node_input_and_output_has_its_words(language: str, script: ModuleType, object_info: dict) -> None:
    assert script.problems(object_info, read(language)) == []


@pytest.mark.parametrize("language", FOREIGN)
def test_a_translation_is_not_the_english_text(language: str, script: ModuleType) -> None:
    english = dict(script.texts(read("en")))
    same = [key for key, text in script.texts(read(language)) if text == english[key] and not key.endswith(".name")]
    assert same == []


def test_the_packs_types_are_named_in_every_language(object_info: dict) -> None:
    ours = {"FACE_DETECTOR", "FACECLIP_ENCODER", "FACET5_ENCODER", "FACECLIP_IDENTITY"}
    assert {kind for info in object_info.values() for kind in info["output"] if "FACE" in kind} == ours
    for language in LANGUAGES:
        assert set(read(language, "main.json")["dataTypes"]) == ours


def test_the_packs_templates_stand_under_its_name() -> None:
    # Else under that of its folder in custom_nodes: `git clone` and the registry call it so.
    for language in LANGUAGES:
        assert read(language, "main.json")["templateWorkflows"]["category"] == {"faceclip": "FaceCLIP"}


def test_what_a_translation_lost_is_noticed(script: ModuleType, object_info: dict) -> None:
    broken = copy.deepcopy(read("fr"))
    inputs = broken["FaceCLIPDetectFaces"]["inputs"]
    del inputs["index"]
    inputs["crop"] = {"name": "cadre"}
    inputs["count"]["tooltip"] = " "
    inputs["on_no_face"]["tooltip"] = "Que faire. error : stop. passer : suivante. text only : le prompt."
    inputs["detector"]["tooltip"] = "De Charger le trouveur, sauf pour 448 x 448."
    broken["FaceCLIPEncoderLoader"]["inputs"]["encoder_name"]["tooltip"] = "face_clip_encoder.pt dans models/faceclip"
    prefix = "FaceCLIPDetectFaces.inputs."
    assert script.problems(object_info, broken) == [
        f"{prefix}count.tooltip is empty",
        f"{prefix}crop.name is of nothing that there is",
        f"{prefix}detector.tooltip does not keep FaceCLIPFaceDetectorLoader",
        f"{prefix}index.name is missing",
        f"{prefix}index.tooltip is missing",
        f"{prefix}on_no_face.tooltip does not keep skip",
        "FaceCLIPEncoderLoader.inputs.encoder_name.tooltip does not keep `faceclip convert`",
    ]
