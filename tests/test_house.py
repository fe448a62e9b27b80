"""The rules of the house: which part may know which, and what ComfyUI and its registry ask of a pack."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from . import arrows

ROOT = Path(__file__).resolve().parent.parent

# Imported only inside the function that needs them: optional, or slow, or both.
HEAVY = {"accelerate", "cv2", "diffusers", "dlib", "face_recognition_models", "insightface", "onnx", "onnxruntime", "skimage"}
HEAVY |= {"bitsandbytes", "peft"}
COMFYUI = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "execution", "folder_paths", "server"}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(nodes: Iterator[ast.AST] | list[ast.stmt]) -> set[str]:
    """Absolute imports as dotted names; relative ones with their dots in front."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
    return names


def everywhere(path: Path) -> set[str]:
    return imports(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def at_import(path: Path) -> set[str]:
    """What importing the file imports: module level, without what only type checkers see."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    names = imports(body)
    for statement in body:
        type_checking = isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test)
        if isinstance(statement, ast.If | ast.Try) and not type_checking:
            names |= imports(ast.walk(statement))
    return names


def top(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names if not name.startswith(".")}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def node_classes() -> list[tuple[Path, ast.ClassDef]]:
    """Every class below `nodes/` that defines a schema."""
    found = []
    for path in sources("nodes"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any(
                isinstance(part, ast.FunctionDef) and part.name == "define_schema" for part in node.body
            ):
                found.append((path, node))
    return found


@pytest.mark.parametrize("path", sources("faceclip"), ids=name_of)
def test_the_library_knows_neither_comfyui_nor_nodes_nor_training(path: Path) -> None:
    names = everywhere(path)
    assert not top(names) & (COMFYUI | {"nodes", "train", "demo"})
    # Relative everywhere: ComfyUI loads the pack from a folder of any name. `__main__` too is run as part of a package.
    assert "faceclip" not in top(names)


@pytest.mark.parametrize("path", sources("nodes"), ids=name_of)
def test_nodes_import_the_pack_relatively_and_nothing_beside_the_library(path: Path) -> None:
    names = everywhere(path)
    assert not top(names) & {"faceclip", "nodes", "train", "demo"}, "an absolute `nodes` is ComfyUI's own"
    upwards = {name for name in names if name.startswith("..")}
    assert all(re.fullmatch(r"\.\.faceclip(\..+)?", name) for name in upwards), upwards


@pytest.mark.parametrize("path", sources("faceclip", "nodes"), ids=name_of)
def test_heavy_and_optional_packages_are_imported_where_they_are_needed(path: Path) -> None:
    assert not top(at_import(path)) & HEAVY


@pytest.mark.parametrize("path", sources("faceclip", "nodes"), ids=name_of)
def test_nothing_that_the_registry_forbids(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not calls & {"eval", "exec", "os.system"}
    assert "subprocess" not in top(everywhere(path))
    if path.is_relative_to(ROOT / "nodes"):
        assert "print" not in calls
        assert not top(everywhere(path)) & {"urllib", "requests", "httpx", "socket"}


@pytest.mark.parametrize("path", [ROOT / "__init__.py", *sources("faceclip", "nodes")], ids=name_of)
def test_nothing_that_a_scanner_takes_for_a_virus(path: Path) -> None:
    # One that many people run calls a pack malicious by these letters, whatever they mean: `model.eval()`, `re.compile(...)`.
    assert re.findall(r"\b(?:eval|exec|compile)\s*\(", path.read_text(encoding="utf-8")) == []


def test_every_node_is_what_a_static_scanner_finds() -> None:
    ids = []
    for path, node in node_classes():
        assert [ast.unparse(base) for base in node.bases] == ["io.ComfyNode"], f"{name_of(path)}: {node.name}"
        (schema,) = (call for call in ast.walk(node) if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("Schema"))
        (node_id,) = (keyword.value for keyword in schema.keywords if keyword.arg == "node_id")
        assert isinstance(node_id, ast.Constant) and node_id.value == node.name
        ids.append(node_id.value)
    assert len(ids) == len(set(ids)) == 14
    assert all(node_id.startswith("FaceCLIP") for node_id in ids)


def test_every_widget_socket_and_node_explains_itself(pack: dict[str, type]) -> None:
    silent = []
    for node_id, node in pack.items():
        schema = node.GET_SCHEMA()
        assert schema.description and schema.display_name, node_id
        assert schema.category.split("/")[0] == "FaceCLIP", node_id
        silent += [f"{node_id}.{socket.id}" for socket in schema.inputs if not socket.tooltip]
        silent += [f"{node_id} -> {socket.id}" for socket in schema.outputs if not socket.tooltip]
    assert silent == []


def test_the_entry_point_is_the_only_door() -> None:
    # With NODE_CLASS_MAPPINGS anywhere at the top, ComfyUI would never call the entry point.
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    assert [node.name for node in tree.body if isinstance(node, ast.AsyncFunctionDef)] == ["comfy_entrypoint"]
    assert "NODE_CLASS_MAPPINGS" not in "".join(path.read_text(encoding="utf-8") for path in sources("nodes"))
    assert imports(tree.body) == set(), "plain Python imports the folder without ComfyUI"


def test_requirements_mirror_the_projects_dependencies() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^dependencies = \[(.*?)\]", project, flags=re.MULTILINE | re.DOTALL)
    dependencies = re.findall(r'"([^"]+)"', listed)
    assert (ROOT / "requirements.txt").read_text(encoding="utf-8").split() == dependencies
    # They come with ComfyUI; a pin of ours could replace the user's GPU build.
    assert not {re.split(r"[\s<>=~!\[]", name)[0] for name in dependencies} & {"torch", "torchvision", "numpy"}


@pytest.mark.parametrize("name", ["dev.py", "demo/__init__.py", "demo/link.py", "demo/server.py", "demo/setup.py"])
def test_set_up_needs_the_standard_library_only(name: str) -> None:
    # It runs before anything is installed.
    names = everywhere(ROOT / name)
    assert top(names) <= set(sys.stdlib_module_names) | {"demo"}
    assert {part for part in names if part.startswith((".", "demo"))} <= {".link", "demo.setup"}


RULES = [
    arrows.wrong_ways,
    arrows.circles,
    arrows.circles_of_rooms,
    arrows.drawn_in_real,
    arrows.finetuning_in_pretraining,
    arrows.past_the_doors,
    arrows.too_long,
    arrows.too_wide,
]


@pytest.fixture(scope="module")
def tree() -> dict[str, str]:
    return arrows.read_tree(ROOT)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_project_keeps_the_rule(rule: Callable[[arrows.Tree], list[str]], tree: dict[str, str]) -> None:
    assert {"nodes/encode.py", "faceclip/identity.py", "train/run/loop.py", "demo/server.py", "dev.py"} <= tree.keys()
    assert rule(tree) == []


LAZILY = "def f():\n    "
PLANTED = [
    (arrows.wrong_ways, {"faceclip/bad.py": "import train.run.loop"}, "faceclip.bad -> train.run.loop"),
    (arrows.wrong_ways, {"faceclip/face/bad.py": LAZILY + "from ...nodes import types"}, "faceclip.face.bad -> nodes.types"),
    (arrows.wrong_ways, {"train/run/bad.py": "import nodes"}, "train.run.bad -> nodes"),
    (arrows.wrong_ways, {"train/bad.py": "from demo.client import ComfyClient"}, "train.bad -> demo.client"),
    (arrows.wrong_ways, {"train/bad.py": LAZILY + "import faceclip, demo"}, "train.bad -> demo"),
    (arrows.wrong_ways, {"nodes/bad.py": "from ..train.run import loop"}, "nodes.bad -> train.run.loop"),
    (arrows.wrong_ways, {"demo/bad.py": "from nodes.encode import Nothing"}, "demo.bad -> nodes.encode"),
    (
        arrows.circles,
        {"nodes/a.py": "from .b import f", "nodes/b.py": LAZILY + "from . import a"},
        "nodes.a -> nodes.b -> nodes.a",
    ),
    (
        arrows.circles,
        {"faceclip/a.py": "if TYPE_CHECKING:\n    from .b import B", "faceclip/b.py": "from .a import A"},
        "faceclip.a -> faceclip.b -> faceclip.a",
    ),
    (
        arrows.circles,
        {"train/run/a.py": "import train.run.b", "train/run/b.py": "from .c import x", "train/run/c.py": "from ..run.a import x"},
        "train.run.a -> train.run.b -> train.run.c -> train.run.a",
    ),
    (arrows.circles_of_rooms, {"train/run/bad.py": "from ..cache import features"}, "cache -> run -> cache"),
    *(
        (arrows.drawn_in_real, {f"train/{room}/bad.py": f"from ..{drawn} import command"}, f"train.{room}.bad -> train.{drawn}")
        for room in sorted(arrows.REAL_TRAINING)
        for drawn in sorted(arrows.DRAWN_WORLD)
    ),
    (
        arrows.finetuning_in_pretraining,
        {"train/pretrain/__main__.py": "from .bad import f", "train/pretrain/bad.py": LAZILY + "import train.finetune_sdxl.rows"},
        "train.finetune_sdxl.rows",
    ),
    (arrows.past_the_doors, {"train/data/bad.py": LAZILY + "return Image.open(path)"}, "train/data/bad.py: Image.open"),
    (arrows.past_the_doors, {"nodes/bad.py": "import torch\ntorch.load('x')"}, "nodes/bad.py: torch.load"),
    (arrows.past_the_doors, {"faceclip/bad.py": "PIL.Image.open(f).load()"}, "faceclip/bad.py: PIL.Image.open"),
    (arrows.past_the_doors, {"train/bad.py": "archive.extractall('/')"}, "train/bad.py: archive.extractall"),
    (arrows.too_long, {"train/run/bad.py": "x = 1\n" * 351}, "train/run/bad.py: 351 lines"),
    (arrows.too_long, {"tests/train/bad.py": "x = 1\n" * 504}, "tests/train/bad.py: 504 lines"),
    (arrows.too_long, {"bad.py": "\n" * 351}, "bad.py: 351 lines"),
    (arrows.too_wide, {"nodes/bad.py": f'"""{"a" * 111}"""'}, "nodes/bad.py:1: 111 columns"),
    (arrows.too_wide, {"bad.py": f'def f():\n    """One.\n\n    {"a" * 111}\n    """'}, "bad.py:4: 111 columns"),
    (arrows.too_wide, {"bad.py": f'x = 1\n"""{"a" * 111}"""'}, "bad.py:2: 111 columns"),
]


@pytest.mark.parametrize(("rule", "planted", "found"), PLANTED)
def test_the_rule_finds_a_planted_violation(
    rule: Callable[[arrows.Tree], list[str]], planted: dict[str, str], found: str, tree: dict[str, str]
) -> None:
    assert any(line.startswith(found) for line in rule({**tree, **planted}))
