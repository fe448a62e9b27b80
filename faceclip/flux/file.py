"""FaceT5 files: the released `face_t5_encoder.pt`, and our own, which holds FaceT5's part alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..recognize import FACET5, recognize
from ..tensor_file import CheckpointError, Entry, TensorFile, open_tensor_file, require_exact
from .config import METADATA_KEY, PRESETS, FaceT5Config, ReleaseConfig
from .names import OWN, T5, own_shapes, own_sources, released_shapes

_EMBEDDING = f"{T5}embed_tokens.weight"
_PATCHES = "face_patch_proj.weight"
_ADVICE = "Download face_t5_encoder.pt again, or convert it with this version of the pack."


@dataclass(frozen=True)
class FaceT5File:
    """An opened file. `entries`: FaceT5's own part under our names.

    `released`: all that the released file has, else empty.
    """

    path: Path
    config: FaceT5Config
    entries: Mapping[str, Entry]
    released: Mapping[str, Entry]

    @property
    def class_head(self) -> bool:
        """Whether the face tower gives class tokens."""
        return any(_is_class_head(name) for name in self.entries)


def open_facet5_file(path: str | Path, class_head: bool = True) -> FaceT5File:
    """Open a file and make sure that it is a whole FaceT5 encoder.

    `class_head` False leaves the tower's class head out.

    Raises CheckpointError for a file that is something else, or a part of one, and says what was found.
    """
    file = open_tensor_file(path)
    kind = recognize(file.entries)
    if kind.name != FACET5:
        raise CheckpointError(f"{file.path} is not a FaceT5 encoder: it looks like this: {kind}")
    if any(name.startswith(OWN) for name in file.entries):
        config = _release_config(file)
        require_exact(file.path, file.shapes, released_shapes(config), "FaceT5 encoder", _ADVICE)
        sources = own_sources(file.entries, config.own, class_head)
        entries = {ours: _without_rows(file.entries[theirs], skip) for ours, (theirs, skip) in sources.items()}
        return FaceT5File(file.path, config.own, entries, file.entries)
    own = _own_config(file)
    has_head = any(_is_class_head(name) for name in file.entries)
    require_exact(file.path, file.shapes, own_shapes(own, has_head), "FaceT5 encoder", _ADVICE)
    entries = {name: entry for name, entry in file.entries.items() if class_head or not _is_class_head(name)}
    return FaceT5File(file.path, own, entries, {})


def _release_config(file: TensorFile) -> ReleaseConfig:
    """The preset of a released file's widths: heads cannot be told from shapes.

    T5's width tells it, else FaceT5's own.
    """
    widths = [file.shapes.get(_EMBEDDING, (0, 0))[-1], file.shapes.get(f"{OWN}{_PATCHES}", (0,))[0]]
    for config in PRESETS.values():
        if config.own.width in widths:
            return config
    raise CheckpointError(f"{file.path}: {_unknown_size(widths)}")


def _own_config(file: TensorFile) -> FaceT5Config:
    try:
        if METADATA_KEY in file.metadata:
            config = FaceT5Config.from_json(file.metadata[METADATA_KEY])
            config.require_depths(file.shapes)
            return config
    except ValueError as error:
        raise CheckpointError(f"{file.path}: {error}") from error
    width = file.shapes.get(_PATCHES, (0,))[0]
    for config in PRESETS.values():
        if config.own.width == width:
            return config.own
    raise CheckpointError(f"{file.path}: {_unknown_size([width])}")


def _unknown_size(widths: list[int]) -> str:
    known = ", ".join(f"{config.own.width} ({name})" for name, config in PRESETS.items())
    return f"this FaceT5 encoder is of width {max(widths)}, and its metadata says nothing of it. The known widths are {known}."


def _without_rows(entry: Entry, skip: int) -> Entry:
    """The entry without its first `skip` rows, which are read and dropped."""
    if not skip:
        return entry

    def read() -> Tensor:
        return entry.read()[skip:].clone()

    return Entry(entry.dtype, (entry.shape[0] - skip, *entry.shape[1:]), read)


def _is_class_head(name: str) -> bool:
    return name.startswith("face_encoder.feature.") or name == "face_encoder.mask_token"
