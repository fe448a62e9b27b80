"""Write `locales/en/nodeDefs.json` from the nodes themselves, and hold the other languages against it.

    python scripts/make_locales.py OBJECT_INFO.json [--check]

OBJECT_INFO.json is what a ComfyUI with the pack in it answers at http://127.0.0.1:8188/object_info. Says what
translations lack, or have of nodes and inputs that are gone, and ends with 1 if there is anything; `--check`
writes nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOCALES = ROOT / "locales"
TRANSLATED = ("zh", "ja", "fr")

# What a translation keeps letter by letter: placeholders, commands, paths, file names and other names with _, and numbers.
_FIXED = re.compile(
    r"\{[^}]*\}|`[^`]+`|[\w~.-]*\w/[\w./-]*\w|\w+_\w+(?:\.\w+)?|\w+\.(?:pt|safetensors)\b|(?<![\w.])\d+(?:\.\d+)?(?!\w)", re.ASCII
)


def node_definitions(object_info: Mapping[str, Any]) -> dict[str, Any]:
    """The pack's `nodeDefs` in English, as the front end reads them, from ComfyUI's /object_info."""
    return {name: _definition(info) for name, info in sorted(object_info.items()) if name.startswith("FaceCLIP")}


def problems(object_info: Mapping[str, Any], translated: Mapping[str, Any]) -> list[str]:
    """What is wrong with a translation: entries missing, left over or empty,
    and texts that lost what must stay as it is."""
    english = node_definitions(object_info)
    here, there = dict(texts(english)), dict(texts(translated))
    found = [f"{key} is missing" for key in here if key not in there]
    found += [f"{key} is of nothing that there is" for key in there if key not in here]
    for key in here.keys() & there.keys():
        if not there[key].strip():
            found.append(f"{key} is empty")
        if not key.endswith(".name"):
            lost = set(_FIXED.findall(here[key])) ^ set(_FIXED.findall(there[key]))
            lost |= {node for node in _nodes_named(here[key], english) if _name(translated, node) not in there[key]}
            lost |= {choice for choice in _choices_explained(key, here[key], object_info) if choice not in there[key]}
            found += [f"{key} does not keep {', '.join(sorted(lost))}"] if lost else []
    return sorted(found)


def texts(definitions: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Each text in nested tables, with its path of keys joined by dots."""
    for key, value in definitions.items():
        if isinstance(value, Mapping):
            yield from texts(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def read(language: str, name: str) -> dict[str, Any]:
    """One file of a language."""
    return json.loads((LOCALES / language / name).read_text(encoding="utf-8"))


def _definition(info: Mapping[str, Any]) -> dict[str, Any]:
    inputs = {name: spec[1] for group in ("required", "optional") for name, spec in info["input"].get(group, {}).items()}
    outputs = zip(info["output_name"], info["output_tooltips"], strict=True)
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": {
            name: {"name": options.get("display_name") or name, "tooltip": options["tooltip"]} for name, options in inputs.items()
        },
        "outputs": {str(slot): {"name": name, "tooltip": tooltip} for slot, (name, tooltip) in enumerate(outputs)},
    }


def _nodes_named(text: str, english: Mapping[str, Any]) -> list[str]:
    """Ids of the nodes that a text names, which a reader must find under the names of that language.

    The longest name counts: Load FaceCLIP Encoder does not name Load FaceCLIP, nor does "Load FaceCLIP's".
    """
    found = []
    for node, definition in sorted(english.items(), key=lambda item: -len(item[1]["display_name"])):
        text, times = re.subn(rf"\b{re.escape(definition['display_name'])}\b(?!')", "", text)
        found += [node] if times else []
    return found


def _choices_explained(key: str, text: str, object_info: Mapping[str, Any]) -> list[str]:
    """The choices of a combo that its tooltip explains, as in "skip: leave it out".

    The combo shows them untranslated.
    """
    node, part, name, *_ = [*key.split("."), ""]
    if part != "inputs":
        return []
    spec, options = next(group[name] for group in object_info[node]["input"].values() if name in group)
    choices = options.get("options", []) if spec == "COMBO" else spec if isinstance(spec, list) else []
    return [choice for choice in choices if re.search(rf"\b{re.escape(str(choice))}:", text)]


def _name(definitions: Mapping[str, Any], node: str) -> str:
    return definitions.get(node, {}).get("display_name", "")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the English locale and check the others against it.")
    parser.add_argument("object_info", type=Path, help="what a running ComfyUI answers at /object_info")
    parser.add_argument("--check", action="store_true", help="write nothing; complain where English has drifted from the nodes")
    options = parser.parse_args(argv)
    object_info = json.loads(options.object_info.read_text(encoding="utf-8"))
    english, found = node_definitions(object_info), []
    if not options.check:
        text = json.dumps(english, indent=2, ensure_ascii=False) + "\n"
        (LOCALES / "en" / "nodeDefs.json").write_text(text, encoding="utf-8")
    elif read("en", "nodeDefs.json") != english:
        found.append("en: nodeDefs.json is not what the nodes say: run this without --check")
    for language in TRANSLATED:
        found += [f"{language}: {problem}" for problem in problems(object_info, read(language, "nodeDefs.json"))]
    print("\n".join(found) or "Every node and input has its words in every language.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
