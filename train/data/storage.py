"""Files by path or fsspec URL: list, read a stretch, publish whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from fsspec.core import url_to_fs


class StorageError(ValueError):
    """A URL that cannot be used: what is wrong, what was found, and what to do."""


def is_local(path: str) -> bool:
    """Say whether a path is on this machine's file system; URLs, `file://` ones too, go through fsspec."""
    return "://" not in path and "::" not in path


def join(folder: str, name: str) -> str:
    """`name` below `folder`, whichever kind it is."""
    return f"{folder.rstrip('/')}/{name}"


def _open_fs(path: str) -> tuple[Any, str]:
    """The file system of a path or URL, and the path within it.

    Raises StorageError where no installed package knows it.
    """
    try:
        return url_to_fs(path)
    except ImportError as error:
        raise StorageError(f"{path} cannot be opened: {error}. Install what it names with pip, and run again.") from error
    except ValueError as error:
        raise StorageError(f"{path} cannot be opened ({error}). Give a path, or a URL that fsspec knows.") from error


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Raise StorageError, naming the URL, for whatever a remote file system raises but FileNotFoundError."""
    try:
        yield
    except (FileNotFoundError, StorageError):
        raise
    except Exception as error:  # each has errors of its own: of sockets, of HTTP, of its store's client
        raise StorageError(
            f"{path} cannot be reached ({type(error).__name__}: {error}). Check the address, the network and your rights to it."
        ) from error


def list_files(path: str) -> list[str]:
    """The files that a path stands for, sorted: itself, those directly in a
    folder but hidden ones, or those that match a pattern with `*`."""
    fs, inner = _open_fs(path)
    with _explained(path):
        if "*" in inner:
            names = fs.glob(inner)
        elif not _is_folder(fs, inner):
            names = [] if size_of(path) is None else [inner]
        else:
            names = [entry["name"] for entry in fs.ls(inner, detail=True) if entry["type"] == "file" and _is_shown(entry)]
    plain = sorted(str(name) for name in names)
    return plain if is_local(path) else [fs.unstrip_protocol(name) for name in plain]


def _is_shown(entry: Mapping[str, Any]) -> bool:
    return not str(entry["name"]).rpartition("/")[2].startswith(".")  # `._shard.tar` is what a Mac leaves beside one


def _is_folder(fs: Any, inner: str) -> bool:
    """As `fs.isdir`, which over HTTP downloads a file to look for links in
    it: names with an extension are files there."""
    if "http" in fs.protocol and Path(inner).suffix:
        return False
    return fs.isdir(inner)


def size_of(path: str) -> int | None:
    """The length of a file in bytes, None if there is none."""
    try:
        if is_local(path):
            return Path(path).stat().st_size
        fs, inner = _open_fs(path)
        with _explained(path):
            size = fs.size(inner)
    except FileNotFoundError:
        return None
    if size is None:
        raise StorageError(f"The server does not tell how long {path} is. Use one that sends Content-Length, or copy the file.")
    return int(size)


def read_bytes(path: str) -> bytes:
    """A whole file. Raises FileNotFoundError."""
    if is_local(path):
        return Path(path).read_bytes()
    fs, inner = _open_fs(path)
    with _explained(path):
        return fs.cat_file(inner)


def read_range(path: str, start: int, end: int) -> bytes:
    """The bytes `start` to `end` (not included) of a file; fewer where it ends sooner."""
    if is_local(path):
        with Path(path).open("rb", buffering=0) as file:
            return os.pread(file.fileno(), end - start, start)
    fs, inner = _open_fs(path)
    with _explained(path):
        data = fs.cat_file(inner, start=start, end=end)
    if len(data) > end - start:
        raise StorageError(
            f"The server of {path} answers with the whole file where {end - start:,} bytes of it are asked for. "
            "Use a server that knows range requests, an object store for example, or copy the files."
        )
    return data


def open_seekable(path: str) -> IO[bytes]:
    """A file to read here and there."""
    if is_local(path):
        return Path(path).open("rb")
    fs, inner = _open_fs(path)
    read_range(path, 0, 1)  # a server without ranges is told here, rather than by whoever reads
    with _explained(path):
        return cast("IO[bytes]", fs.open(inner, "rb"))


@contextmanager
def publishing(path: str) -> Iterator[IO[bytes]]:
    """A file to write that appears under its name whole, once the block ends, or not at all."""
    if not is_local(path):
        # Object stores show an object only once its upload is complete.
        with tempfile.TemporaryDirectory() as folder:
            with (Path(folder) / "upload").open("w+b") as file:
                yield file
            fs, inner = _open_fs(path)
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
