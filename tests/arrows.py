"""The arrows between the project's modules and the rules they keep, each tried on any tree, a bad one too."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

PACKAGES: dict[str, set[str]] = {"faceclip": set(), "nodes": {"faceclip"}, "train": {"faceclip"}, "demo": {"faceclip", "train"}}
"""The packages, and which others each may import."""
REAL_TRAINING = {"prepare", "cache", "pretrain", "finetune_sdxl", "generate", "evaluate", "study", "run", "data", "frozen"}
DRAWN_WORLD = {"synthetic", "proof", "mini"}
LONGEST_FILE = 350
WIDEST_PROSE = 110
DOORS: dict[str, set[str]] = {
    "Image.open": {"faceclip/face/photo.py"},
    "torch.load": {"faceclip/read_torch.py", "train/proof/fitting.py"},  # the latter what the proof itself has written
    "torch.jit.load": set(),
    "safe_open": set(),
    "load_file": set(),
    "pickle.load": set(),
    "pickle.loads": {"train/data/workers.py"},  # what this program's own workers send
    "np.load": {"train/cache/row_store.py", "train/proof/report/plots.py"},  # as above
    "yaml.load": set(),
    "yaml.safe_load": {"train/data/texts.py"},
    "csv.reader": {"train/data/tables.py", "train/study/votes.py"},
    "csv.DictReader": {"train/study/votes.py"},
    "zipfile.ZipFile": {"faceclip/read_torch.py", "faceclip/download/fetch.py"},
    "tarfile.open": {"train/data/shards.py", "train/data/shard_index.py"},
    "extractall": set(),
    "urlopen": set(),
    "urlretrieve": set(),
    "requests.get": set(),
}
"""How files and answers come in, and the files whose bounds and messages
they go through: `nodes/`, `faceclip/` and `train/`."""

Tree = Mapping[str, str]
"""Paths of Python files below the project's root, and what they hold."""


def read_tree(root: Path) -> dict[str, str]:
    """Every Python file of the project, tests and scripts included.

    Folders that begin with a dot are not the project's.
    """
    paths = (path.relative_to(root) for path in root.rglob("*.py"))
    own = [path for path in paths if not any(part.startswith(".") for part in path.parts)]
    return {path.as_posix(): (root / path).read_text(encoding="utf-8") for path in sorted(own)}


class Arrows:
    """Who imports whom among the modules of `PACKAGES`, inside functions and for type checkers too."""

    def __init__(self, tree: Tree):
        self.modules = {_module(path): path for path in tree if path.split("/")[0] in PACKAGES}
        self.to = {module: set(self._imports(module, path, tree[path])) for module, path in self.modules.items()}

    def _imports(self, module: str, path: str, text: str) -> Iterator[str]:
        """Modules by their names, and packages that are no module of the tree (ComfyUI's `nodes`) by theirs."""
        package = module.split(".") if path.endswith("__init__.py") else module.split(".")[:-1]
        for level, base, names in _statements(text):
            above = package[: len(package) - level + 1] if level else []
            yield from (self._known(".".join(filter(None, (*above, base, name)))) for name in names)

    def _known(self, name: str) -> str:
        """The module that a dotted name leads to: it, or the one that holds it."""
        parts = name.split(".")
        found = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
        return next((each for each in found if each in self.modules), name)

    def reach(self, start: str) -> set[str]:
        """Every module that may be loaded once `start` is, packages on the way included."""
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            module = waiting.pop()
            if module in self.modules and module not in seen:
                seen.add(module)
                waiting += [module.rpartition(".")[0], *self.to[module]]
        return seen


@cache
def _statements(text: str) -> list[tuple[int, str, tuple[str, ...]]]:
    """Of every import: the dots in front, what it imports from, and the names."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found.append((0, "", tuple(alias.name for alias in node.names)))
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or "", tuple(alias.name for alias in node.names)))
    return found


def _module(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def wrong_ways(tree: Tree) -> list[str]:
    """Arrows up or sideways between the packages."""
    arrows = Arrows(tree)
    found = ((module, other, module.split(".")[0], other.split(".")[0]) for module in arrows.to for other in arrows.to[module])
    return sorted(f"{a} -> {b}" for a, b, mine, theirs in found if theirs in PACKAGES and theirs not in PACKAGES[mine] | {mine})


def circles(tree: Tree) -> list[str]:
    """Modules of one package that import each other, on whatever way."""
    arrows = Arrows(tree)
    return [" -> ".join([*circle, circle[0]]) for circle in _circles(arrows.to)]


def circles_of_rooms(tree: Tree) -> list[str]:
    """Folders of train/ that import each other."""
    rooms: dict[str, set[str]] = {}
    for module, others in Arrows(tree).to.items():
        if module.startswith("train."):
            mine = module.split(".")[1]
            theirs = {other.split(".")[1] for other in others if other.startswith("train.")}
            rooms.setdefault(mine, set()).update(theirs - {mine})
    return [" -> ".join([*circle, circle[0]]) for circle in _circles(rooms)]


def _circles(to: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """One circle for every arrow that closes one, as a walk goes down all arrows."""
    found: list[list[str]] = []
    done: set[str] = set()

    def walk(here: str, way: list[str]) -> None:
        if here in way:
            found.append(way[way.index(here) :])
        elif here not in done:
            for there in sorted(to.get(here, ())):
                walk(there, [*way, here])
            done.add(here)

    for start in sorted(to):
        walk(start, [])
    return found


def drawn_in_real(tree: Tree) -> list[str]:
    """Parts of training on photographs that know the drawn world, the proof or the mini model."""
    found = []
    for module, others in Arrows(tree).to.items():
        if module.startswith("train.") and module.split(".")[1] in REAL_TRAINING:
            drawn = [other for other in others if other.startswith("train.") and other.split(".")[1] in DRAWN_WORLD]
            found += [f"{module} -> {other}" for other in drawn]
    return sorted(found)


def finetuning_in_pretraining(tree: Tree) -> list[str]:
    """Modules of finetuning that `python -m train.pretrain` may load."""
    return sorted(module for module in Arrows(tree).reach("train.pretrain.__main__") if module.startswith("train.finetune_sdxl"))


def past_the_doors(tree: Tree) -> list[str]:
    """Files from outside that are opened elsewhere than by their reader."""
    found = []
    for path, text in tree.items():
        if path.split("/")[0] in ("nodes", "faceclip", "train"):
            names = (ast.unparse(node.func) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
            doors = ((name, door) for name in names for door in DOORS if f".{name}".endswith(f".{door}"))
            found += [f"{path}: {name}" for name, door in doors if path not in DOORS[door]]
    return sorted(found)


def too_long(tree: Tree) -> list[str]:
    """Files that are so long that they are two."""
    return [f"{path}: {lines} lines" for path, text in tree.items() if (lines := len(text.splitlines())) > LONGEST_FILE]


def too_wide(tree: Tree) -> list[str]:
    """Lines of docstrings that are hard to read; what is indented in a module's is a command to copy."""
    return [f"{path}:{line}: {columns} columns" for path, text in tree.items() for line, columns in _wide_prose(text)]


@cache
def _wide_prose(text: str) -> tuple[tuple[int, int], ...]:
    """Line number and columns of each line of a docstring that is too wide."""
    lines, found = text.splitlines(), []
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
                continue
            for number in range(statement.lineno, (statement.end_lineno or statement.lineno) + 1):
                columns = len(lines[number - 1].strip().replace('"""', ""))
                if columns > WIDEST_PROSE and not (isinstance(node, ast.Module) and lines[number - 1].startswith(" ")):
                    found.append((number, columns))
    return tuple(found)
