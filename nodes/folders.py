"""Where files are: the pack's model folders in ComfyUI's list, and the names that the combos show."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import folder_paths

from ..faceclip import hub

MODELS = "faceclip"
IDENTITIES = "faceclip_identities"
VAES = "vae"
UNET_FOLDERS = (MODELS, "diffusion_models", "checkpoints")

# Files of the pack that had another name before, which saved graphs still have.
_RENAMED = {"faceclip_mini_vae.safetensors": "zz_faceclip_mini_vae.safetensors"}

# The mini files that come with the pack.
_PACK_MODELS = Path(__file__).resolve().parent.parent / "models"


def register_folders() -> None:
    """Add the pack's folders to ComfyUI's; paths that the user's `extra_model_paths.yaml` gave stay, and stay first."""
    for name, folder in (
        (MODELS, Path(folder_paths.models_dir) / "faceclip"),
        (MODELS, _PACK_MODELS / "faceclip"),
        (VAES, _PACK_MODELS / "vae"),
        (IDENTITIES, identities_folder()),
    ):
        folder_paths.add_model_folder_path(name, str(folder))
    for name, extensions in ((MODELS, folder_paths.supported_pt_extensions), (IDENTITIES, {".safetensors"})):
        paths, known = folder_paths.folder_names_and_paths[name]
        folder_paths.folder_names_and_paths[name] = (paths, {*known, *extensions})


def identities_folder() -> Path:
    """Where Save Identity writes; below the output folder, as everything a graph writes."""
    return Path(folder_paths.get_output_directory()) / IDENTITIES


def example_people() -> dict[str, Path]:
    """The people that come with the pack, by name: the only place that says where their pictures are."""
    return {path.stem: path for path in sorted((_PACK_MODELS / "people").glob("*.jpg"))}


def insightface_folders() -> list[Path]:
    """ComfyUI's folders for InsightFace packs, the user's own first."""
    registered = folder_paths.folder_names_and_paths.get("insightface", ([], set()))[0]
    return [Path(folder) for folder in (*registered, Path(folder_paths.models_dir) / "insightface")]


def list_files(folders: Sequence[str]) -> list[str]:
    """Names of the files in these folders of ComfyUI, each once, in the order of the folders."""
    return list(dict.fromkeys(name for folder in folders for name in folder_paths.get_filename_list(folder)))


def find_file(name: str, folders: Sequence[str]) -> Path:
    """The first file of that name in these folders; a subfolder may be written as Windows or as others do.

    A file of the pack is found by the name it had before, too.
    Raises FileNotFoundError that says where it was looked for, and where to get it.
    """
    searched = ", ".join(path for folder in folders for path in folder_paths.get_folder_paths(folder))
    if not name:
        raise FileNotFoundError(f"No file is chosen. Put one in one of these folders: {searched}. Then press R to list it.")
    for spelled in dict.fromkeys((name, name.replace("\\", os.sep), name.replace("/", os.sep), _RENAMED.get(name, name))):
        for folder in folders:
            if path := folder_paths.get_full_path(folder, spelled):
                return Path(path)
    known = hub.find(name)
    where = f" Download it from {known.url} ({known.size_told}), or run `faceclip download {name}`." if known else ""
    raise FileNotFoundError(f"There is no file {name}. Put it in one of these folders: {searched}.{where}")


def is_there(**files: tuple[str | None, Sequence[str]]) -> bool | str:
    """For `validate_inputs`: True, or what to do about the files, by input (name, folders), that are not there.

    A node that validates the input itself is asked before the core says no more than that a value is not in a
    list. None is what comes over a link, which `find_file` sees later.
    The core lays one answer to every input asked about; of several, it names the input that it is of.
    """
    problems = []
    for asked, (name, folders) in files.items():
        try:
            _ = name is None or find_file(name, folders)
        except FileNotFoundError as error:
            problems.append(f"{asked}: {error}" if len(files) > 1 else str(error))
    return " ".join(problems) or True
