"""What a checkpoint's `.metadata` holds, read without running anything:
torch's own reader unpickles whatever is in it."""

from __future__ import annotations

import pathlib
import pickle
from pathlib import Path, PurePath
from typing import Any

import torch
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

_PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")


class SafeReader(FileSystemReader):
    """Reads checkpoints whose metadata names nothing but
    torch.distributed.checkpoint's own classes, and files in their folder.

    Raises pickle.UnpicklingError for other metadata; of a damaged one comes what comes.
    """

    def read_metadata(self, *args: Any, **options: Any) -> Metadata:
        rank = options.get("rank")
        name = ".metadata" if rank is None else f"__{rank}.metadata"
        with Path(self.path, name).open("rb") as file:
            found = _Unpickler(file).load()
        if not isinstance(found, Metadata) or not isinstance(found.state_dict_metadata, dict):
            raise pickle.UnpicklingError(f"it holds a {type(found).__name__}")
        for place in (found.storage_data or {}).values():
            if PurePath(place.relative_path).name != place.relative_path:
                raise pickle.UnpicklingError(f"it names the file {place.relative_path}, outside of its folder")
        if not isinstance(found.storage_meta, StorageMeta):
            found.storage_meta = StorageMeta()
        found.storage_meta.load_id = self.load_id
        return found


class _Unpickler(pickle._Unpickler):
    """Python's own, not the faster one in C, which takes memory for as many parts as a damaged number says."""

    def find_class(self, module: str, name: str) -> Any:
        homes = {metadata.__name__: metadata, filesystem.__name__: filesystem}
        if module in homes:
            found = getattr(homes[module], name.partition(".")[0], None)
            inner = getattr(found, name.partition(".")[2], found) if "." in name else found
            if isinstance(inner, type) and inner.__module__ == module and name not in ("FileSystem",):
                return inner
        if module == "torch" and (name == "Size" or isinstance(getattr(torch, name, None), torch.dtype)):
            return getattr(torch, name)
        if (module, name) == ("torch.serialization", "_get_layout"):
            return torch.serialization._get_layout
        if module.split(".")[0] == "pathlib" and name in _PATHS:
            return getattr(pathlib, f"Pure{name.removeprefix('Pure')}")
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no checkpoint has: it could harm this computer")
