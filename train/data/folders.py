"""Pictures in a folder: which files are pictures, which belong to one, and how their names are spelled there."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from .texts import folded

# Also kinds that may turn out to be unreadable here, so that the report names them.
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif")
# What systems keep beside people's files: deleted ones, previews, what an archive of macOS leaves.
_NOT_THEIRS = {"__macosx", "$recycle.bin", "recycler", "#recycle", "@eadir", "lost+found", "system volume information"}


def pictures_below(root: Path) -> list[str]:
    """Pictures in a folder and those within, also behind links, each folder once.

    Hidden and deleted ones are left out.

    Paths relative to `root`, sorted.
    """
    return sorted(str(path.relative_to(root)) for path in _files(root) if path.suffix.lower() in PICTURES)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of what people put there: hidden, deleted, or a system's own."""
    return name.startswith(".") or name.lower() in _NOT_THEIRS


def existing(folder: str, name: str) -> str:
    """The path of `name` in a folder of this machine, in the spelling that is there.

    Tables come from Windows, with backslashes, and from macOS, with accents in parts. Where nothing is there
    under any spelling, the path as it is written.
    """
    path = os.path.join(folder, name)  # noqa: PTH118  # as it is written, not as a Path would tidy it
    if os.path.lexists(path):
        return path
    plain = os.path.join(folder, name.replace("\\", "/"))  # noqa: PTH118
    spelled = [unicodedata.normalize(form, name) for name in (path, plain) for form in ("NFC", "NFD")]
    return next((name for name in (plain, *spelled) if os.path.lexists(name)), path)


def _files(root: Path) -> Iterator[Path]:
    seen: set[str] = set()
    waiting, links = [root], []
    while waiting or links:
        folder = waiting.pop() if waiting else links.pop(0)  # a link comes after the folder itself, which keeps its name
        if (real := os.path.realpath(folder)) in seen:
            continue
        seen.add(real)
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if is_hidden(entry.name):
                continue
            if entry.is_dir():
                (links if entry.is_symlink() else waiting).append(Path(entry.path))
            else:
                yield Path(entry.path)


class Beside:
    """The files that lie beside pictures, found by a picture's name and an ending in capitals or not."""

    def __init__(self) -> None:
        self._folder = Path()
        self._exact: dict[tuple[str, str], str] = {}
        self._folded: dict[tuple[str, str], list[str]] = {}

    def find(self, photo: Path, ending: str) -> Path | None:
        """The file `STEM.ending` for a picture; where there is none, the only one that differs in case or accents."""
        if photo.parent != self._folder or not self._exact:
            self._read(photo.parent)
        if name := self._exact.get((photo.stem, ending)):
            return photo.parent / name
        others = self._folded.get((folded(photo.stem), ending), [])
        return photo.parent / others[0] if len(others) == 1 else None

    def _read(self, folder: Path) -> None:
        self._folder, self._exact, self._folded = folder, {}, {}
        for name in sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []:
            stem, _, ending = name.rpartition(".")
            self._exact.setdefault((stem, ending.lower()), name)
            self._folded.setdefault((folded(stem), ending.lower()), []).append(name)
