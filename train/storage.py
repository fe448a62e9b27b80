"""Files by path or fsspec URL: list, read a stretch, publish whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from fsspec.core import url_to_fs


def is_local(path: str) -> bool:
    """Say whether a path is on this machine's file system; URLs, `file://` ones too, go through fsspec."""
    return "://" not in path and "::" not in path


def join(folder: str, name: str) -> str:
    """`name` below `folder`, whichever kind it is."""
    return f"{folder.rstrip('/')}/{name}"


def list_files(path: str) -> list[str]:
    """The files that a path stands for, sorted: itself, those directly in a folder, or those that match a pattern with `*`."""
    fs, inner = url_to_fs(path)
    if "*" in inner:
        names = fs.glob(inner)
    elif fs.isdir(inner):
        names = [entry["name"] for entry in fs.ls(inner, detail=True) if entry["type"] == "file"]
    else:
        names = [inner] if fs.exists(inner) else []
    plain = sorted(str(name) for name in names)
    return plain if is_local(path) else [fs.unstrip_protocol(name) for name in plain]


def size_of(path: str) -> int | None:
    """The length of a file in bytes, None if there is none."""
    try:
        if is_local(path):
            return Path(path).stat().st_size
        fs, inner = url_to_fs(path)
        return int(fs.size(inner))
    except FileNotFoundError:
        return None


def read_bytes(path: str) -> bytes:
    """A whole file. Raises FileNotFoundError."""
    if is_local(path):
        return Path(path).read_bytes()
    fs, inner = url_to_fs(path)
    return fs.cat_file(inner)


def read_range(path: str, start: int, end: int) -> bytes:
    """The bytes `start` to `end` (not included) of a file; fewer where it ends sooner."""
    if is_local(path):
        with Path(path).open("rb", buffering=0) as file:
            return os.pread(file.fileno(), end - start, start)
    fs, inner = url_to_fs(path)
    return fs.cat_file(inner, start=start, end=end)


def open_seekable(path: str) -> IO[bytes]:
    """A file to read here and there."""
    if is_local(path):
        return Path(path).open("rb")
    fs, inner = url_to_fs(path)
    return cast("IO[bytes]", fs.open(inner, "rb"))


@contextmanager
def publishing(path: str) -> Iterator[IO[bytes]]:
    """A file to write that appears under its name whole, once the block ends, or not at all."""
    if not is_local(path):
        # Object stores show an object only once its upload is complete.
        with tempfile.TemporaryDirectory() as folder:
            with (Path(folder) / "upload").open("w+b") as file:
                yield file
            fs, inner = url_to_fs(path)
            fs.makedirs(fs._parent(inner), exist_ok=True)
            fs.put_file(file.name, inner)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with partial.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def publish(path: str, data: bytes) -> None:
    """Write a file whole or not at all."""
    with publishing(path) as file:
        file.write(data)
