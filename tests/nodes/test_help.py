"""The help pages say everything that there is on a node: each input and
output by its name, with its range and its choices."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "web" / "docs"
FILE_COMBOS = {"encoder_name", "facet5_name", "file_name", "unet_name", "vae_name"}  # their choices are the user's files
MIB = 2**20


def page(node_id: str) -> str:
    return (DOCS / f"{node_id}.md").read_text(encoding="utf-8")


def entry(text: str, section: str, name: str) -> str:
    """What the page says of one input or output: its item of the list, one line."""
    (part,) = re.findall(rf"^## {section}\n\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    items = [" ".join(item.split()) for item in re.split(r"^- ", part, flags=re.MULTILINE)]
    found = [item for item in items if f"**{name}**" in item.split(":")[0]]
    assert len(found) == 1, f"{section}: {name}"
    return found[0]


def test_every_node_has_a_page_and_no_page_is_of_nothing(pack: dict[str, Any]) -> None:
    assert {path.stem for path in DOCS.glob("*.md")} == set(pack)
    assert {path.stem for path in (DOCS / "images").iterdir()} == set(pack)


def test_the_page_tells_of_every_input(pack: dict[str, Any]) -> None:
    for node_id, node in pack.items():
        for group in node.GET_NODE_INFO_V1()["input"].items():
            if group[0] == "hidden":
                continue
            for name, (kind, options) in group[1].items():
                said = entry(page(node_id), "Inputs", name)
                if kind in ("INT", "FLOAT"):
                    limits = f"({options['min']:g} to {options['max']}, default {options['default']:g})".replace(".0,", ",")
                    assert f"**{name}** {limits}" in said, f"{node_id}.{name} {limits}"
                elif kind == "COMBO" and name not in FILE_COMBOS:
                    assert f"(default `{options['default']}`)" in said, f"{node_id}.{name}"
                    missing = [choice for choice in options["options"] if f"`{choice}`" not in said]
                    assert missing == [], f"{node_id}.{name}"
                assert ("(optional)" in said) == (group[0] == "optional"), f"{node_id}.{name}"


def test_the_page_tells_of_every_output(pack: dict[str, Any]) -> None:
    for node_id, node in pack.items():
        for name in node.GET_NODE_INFO_V1()["output_name"]:
            assert len(entry(page(node_id), "Outputs", name)) > len(name) + 10, f"{node_id} -> {name}"


def test_the_page_shows_the_node_and_tells_of_mistakes(pack: dict[str, Any]) -> None:
    for node_id, node in pack.items():
        text = page(node_id)
        assert text.count(f"](images/{node_id}.webp)") == 1, node_id
        assert node.define_schema().display_name in text or node_id == "FaceCLIPBlendIdentities", node_id
        mistakes = text.split("## Common mistakes\n", 1)[1]
        assert mistakes.count("\n- ") >= 3, node_id


def test_pages_name_nodes_as_the_editor_does(pack: dict[str, Any]) -> None:
    # In italics: our nodes, nodes of the core, and workflows.
    ours = {node.define_schema().display_name for node in pack.values()}
    known = ours | {
        "Load CLIP",
        "CLIP Text Encode",
        "Load VAE",
        "Empty Latent Image",
        "Preview Image",
        "GrowMask",
        "FeatherMask",
        "Load Image",
        "VAE Decode",
        "ConditioningSetTimestepRange",
    }
    known |= {"Conditioning (Combine)", "DualCLIPLoader", "Load Diffusion Model", "ModelSamplingFlux"}
    known |= {path.stem for path in (ROOT / "workflows").glob("*.json")}
    for node_id in pack:
        for name in re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", page(node_id)):
            name = " ".join(name.split())
            assert name in known or name[0].islower(), f"{node_id}: {name}"


def test_pictures_are_readable_and_small_together() -> None:
    pictures = list((DOCS / "images").iterdir())
    assert sum(path.stat().st_size for path in pictures) < MIB
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.format == "WEBP" and picture.width >= 350, path.name


@pytest.mark.parametrize("path", [*sorted(DOCS.glob("*.md")), ROOT / "docs" / "troubleshooting.md"], ids=lambda path: path.stem)
def test_messages_quoted_are_those_that_the_code_gives(path: Path) -> None:
    code = "".join(source.read_text(encoding="utf-8") for part in ("faceclip", "nodes") for source in (ROOT / part).rglob("*.py"))
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # strings that go on in the next line
    spoken = " ".join(path.read_text(encoding="utf-8").split())
    invented = []
    for message in re.findall(r'"([^"]+)"', spoken):
        words = [part.strip(" .,") for part in re.split(r"\.\.\.|\(|\)|'[^']*'|\d+", message)]
        longest = max(words, key=len)
        if message not in THEIRS and longest not in code:
            invented.append(message)
    assert invented == []


# Quoted, but no message of ours: what people say, and what other software says.
THEIRS = {
    "insightface cannot be installed",
    "Value not in list: vae_name: 'faceclip_mini_vae.safetensors'",
    "no face here",
    "Blue eyes, thin nose",
    "It does not look like me",
    "It broke with the last ComfyUI update",
    "the face stays after I bypassed the node",
    "expected scalar type Half but found Float",
    "mat1 and mat2 must have the same dtype",
    "mat1 and mat2 shapes cannot be multiplied",
    "Torch not compiled with CUDA enabled",
    "It downloads gigabytes without asking",
    "May I use this commercially?",
    "FaceCLIP... is missing",
}
