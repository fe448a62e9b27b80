"""Where ComfyUI keeps its models, as seen from the command line, where no ComfyUI runs that could be asked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


class NoModelsFolderError(ValueError):
    """There is no ComfyUI around, or what was given is none; the message says how to name one."""


def models_folder(given: Path | None = None) -> Path:
    """The models folder to use: `given` (a models folder, or the ComfyUI around it), or else the one that is found.

    Looked at in this order: COMFYUI_PATH, the ComfyUI whose `custom_nodes`
    this pack lies in, the current folder and those above it.

    Raises:
        NoModelsFolderError: nothing was found, or `given` is no folder.
    """
    if given is not None:
        if not given.is_dir():
            raise NoModelsFolderError(f"There is no folder {given}. Give ComfyUI's models folder, which must be there, to --to.")
        return given / "models" if _is_comfyui(given) else given
    for folder in _candidates():
        if _is_comfyui(folder):
            return folder / "models"
    raise NoModelsFolderError(
        "No ComfyUI was found around here. Say where its models go: --to PATH/TO/ComfyUI/models (or any folder of yours)."
    )


def _is_comfyui(folder: Path) -> bool:
    return (folder / "models").is_dir() and (folder / "main.py").is_file() and (folder / "comfy").is_dir()


def _candidates() -> Iterator[Path]:
    if path := os.environ.get("COMFYUI_PATH"):
        yield Path(path)
    # Both as written and behind links: a pack may be linked into `custom_nodes`.
    here = Path(__file__)
    for pack in (here.absolute().parents[2], here.resolve().parents[2]):
        if pack.parent.name == "custom_nodes":
            yield pack.parents[1]
    yield from (Path.cwd(), *Path.cwd().parents)
