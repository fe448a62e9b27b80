"""Pictures in a folder: which files are pictures, which belong to one, and how their names are spelled there."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from .texts import folded

# Also kinds that may turn out to be unreadable here, so that the report names them.
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif")
# What systems keep beside people's files: deleted ones, previews, what an archive of macOS leaves.
_NOT_THEIRS = {"__macosx", "$recycle.bin", "recycler", "#recycle", "@eadir", "lost+found", "system volume information"}


def pictures_below(root: Path) -> Iterator[str]:
    """Pictures in a folder and those within, also behind links, each folder once.

    Hidden and deleted ones are left out.

    Paths relative to `root`, in no order.
    """
    return (os.path.relpath(path, root) for path in _files(root) if Path(path).suffix.lower() in PICTURES)


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


def _files(root: Path) -> Iterator[str]:
    seen: set[str] = set()
    waiting, links = [root], []
    while waiting or links:
        folder = waiting.pop() if waiting else links.pop(0)  # a link comes after the folder itself, which keeps its name
        if (real := os.path.realpath(folder)) in seen:
            continue
        seen.add(real)
        within: list[os.DirEntry[str]] = []  # folders alone are kept: there may be millions of files
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    continue
                if entry.is_dir():
                    within.append(entry)
                else:
                    yield entry.path
        for entry in sorted(within, key=lambda entry: entry.name):
            (links if entry.is_symlink() else waiting).append(Path(entry.path))


class Beside:
    """The files that lie beside pictures, found by a picture's name and an ending in capitals or not.

    Of a folder only what may belong to the pictures named is remembered.
    """

    def __init__(self, names: Iterable[str]) -> None:
        """names: the pictures that will be asked for, by whatever path."""
        self._wanted = {folded(Path(name).stem) for name in names}
        self._folder: Path | None = None
        self._exact: dict[tuple[str, str], str] = {}
        self._folded: dict[tuple[str, str], list[str]] = {}

    def find(self, photo: Path, ending: str) -> Path | None:
        """The file `STEM.ending` for a picture; where there is none, the only one that differs in case or accents."""
        if photo.parent != self._folder:
            self._read(photo.parent)
        if name := self._exact.get((photo.stem, ending)):
            return photo.parent / name
        others = self._folded.get((folded(photo.stem), ending), [])
        return photo.parent / others[0] if len(others) == 1 else None

    def _read(self, folder: Path) -> None:
        self._folder, self._exact, self._folded = folder, {}, {}
        found = []
        if folder.is_dir():
            with os.scandir(folder) as entries:
                found = [entry.name for entry in entries if folded(entry.name.rpartition(".")[0]) in self._wanted]
        for name in sorted(found):
            stem, _, ending = name.rpartition(".")
            self._exact.setdefault((stem, ending.lower()), name)
            self._folded.setdefault((folded(stem), ending.lower()), []).append(name)
