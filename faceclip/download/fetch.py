"""Fetch the files of `hub.FILES`: resumed where they were cut off, checked, put where ComfyUI looks for them.

Addresses, tokens, mirrors (HF_ENDPOINT) and the transfer itself are `huggingface_hub`'s. Its own downloads
start again from nothing in a new process, so the partial file is kept here: `<name>.<version>.part` beside
the target, the version being the beginning of the file's checksum, so that two versions of a file are never
joined. A file appears under its name only when it is whole. Nothing in this module is imported by the nodes:
a graph that runs downloads nothing.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from ..hub import RemoteFile, size_text
from .errors import DownloadError, by_hand, explained, transport_errors
from .redirects import bounded

logger = logging.getLogger(__name__)

State = Literal["there", "partial", "different", "missing"]

_BLOCK = 1 << 20
# Left free on the disk beyond what is fetched: a full system disk breaks more than a download.
_SPARE = 256 << 20


@dataclass(frozen=True)
class Offer:
    """A file as a server offers it now.

    url: where it is fetched (the mirror's address, of one fixed version). size: bytes; sha256: lower-case hex;
    either is None if neither the table nor the server tells. headers: for the request, the user's token among
    them: never shown.
    """

    file: RemoteFile
    url: str
    size: int | None
    sha256: str | None
    headers: dict[str, str] = field(default_factory=dict, repr=False)

    def part(self, models: Path) -> Path:
        """Where it grows until it is whole."""
        version = self.sha256[:12] if self.sha256 else "unknown"
        return models / self.file.folder / f"{self.file.name}.{version}.part"


def state(file: RemoteFile, models: Path) -> State:
    """What there is of a file in ComfyUI's `models` folder; sizes are compared where the table knows them."""
    folder = models / file.folder
    found = {name: size for name, size in file.targets.items() if (folder / name).is_file()}
    if any(size not in (None, (folder / name).stat().st_size) for name, size in found.items()):
        return "different"
    if len(found) == len(file.targets):
        return "there"
    return "partial" if found or _parts(file, models) else "missing"


def ask_server(file: RemoteFile) -> Offer:
    """Ask for the file's size and checksum; nothing is fetched. Honours HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE.

    Raises:
        DownloadError: no huggingface_hub, no network, no access, no such
            file, or another file than the published one.
    """
    hub = _hub()
    if hub.constants.HF_HUB_OFFLINE:
        raise DownloadError(f"HF_HUB_OFFLINE is set, so {file.url} is not asked for. Unset it. {by_hand(file)}")
    if file.on_hub is None:
        return Offer(file, file.url, file.size, file.sha256)
    repo, path = file.on_hub
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
    url = hub.hf_hub_url(repo, path, endpoint=endpoint)
    with explained(file, url), bounded(hub, file):
        found = hub.get_hf_file_metadata(url)
    etag = (found.etag or "").lower()
    sha256 = etag if re.fullmatch(r"[0-9a-f]{64}", etag) else None  # it becomes part of a file's name
    for what, published, offered in (("size", file.size, found.size), ("sha256", file.sha256, sha256)):
        if published and offered and published != offered:
            raise DownloadError(
                f"{url} is another file than the published {file.name}: its {what} is {offered}, not {published}. "
                f"Nothing was fetched. {'Check HF_ENDPOINT. ' if endpoint else ''}{by_hand(file)}"
            )
    if found.commit_hash:  # this very version, even if another is published meanwhile
        url = hub.hf_hub_url(repo, path, revision=found.commit_hash, endpoint=endpoint)
    # Uncompressed, so that offsets into the answer are offsets into the file.
    headers = {**hub.utils.build_hf_headers(), "Accept-Encoding": "identity"}
    return Offer(file, url, file.size or found.size, file.sha256 or sha256, headers)


def check_space(offers: Sequence[Offer], models: Path) -> None:
    """Raise DownloadError unless what is still to come fits, with some to spare, on each disk that it goes to."""
    needed: dict[int, tuple[Path, int]] = {}
    for offer in offers:
        folder = _existing(models / offer.file.folder)
        device = folder.stat().st_dev
        missing = (offer.size or 0) - _size_of(offer.part(models)) + sum(size for _, size in offer.file.members)
        needed[device] = (folder, needed.get(device, (folder, 0))[1] + missing)
    for folder, count in needed.values():
        free = shutil.disk_usage(folder).free
        if free < count + _SPARE:
            raise DownloadError(
                f"Not enough space in {folder}: {size_text(count)} are to come, {size_text(free)} are free, and "
                f"{size_text(_SPARE)} should stay free. Nothing was fetched. Make room, or choose another disk with --to."
            )


def fetch(offer: Offer, models: Path) -> list[Path]:
    """Fetch a file, or what is still missing of it, into ComfyUI's `models` folder; return what lies there now.

    Blocks until it is done; a progress bar goes to stderr. Stopped at any
    moment, the next call goes on from there.

    Raises:
        DownloadError: network, access, disk, checksum, or another process fetches the same file.
    """
    part = offer.part(models)
    part.parent.mkdir(parents=True, exist_ok=True)
    with _alone(part):
        for old in _parts(offer.file, models):
            if old != part:  # of a version that is offered no more
                old.unlink()
        with explained(offer.file, offer.url, part), bounded(_hub(), offer.file):
            _receive(offer, part)
            _check(offer, part)
        return _settle(offer.file, part)


def _receive(offer: Offer, part: Path) -> None:
    """Append what is missing; take up again what broke off, as long as each attempt brings something."""
    hub = _hub()
    while True:
        before = _size_of(part)
        try:
            _append(offer, part, hub.file_download.http_get)
            return
        except transport_errors() as error:  # older versions of huggingface_hub count the server's refusals among them
            if isinstance(error, hub.errors.HfHubHTTPError) or _size_of(part) <= before:
                raise
            logger.warning("The connection to %s broke off (%s). Going on.", offer.url, error)
            time.sleep(1)


def _append(offer: Offer, part: Path, http_get: Callable[..., None]) -> None:
    done = _size_of(part)
    if offer.size is None or done > offer.size:  # only what can be checked is continued
        part.unlink(missing_ok=True)
        done = 0
    with part.open("ab") as target:
        http_get(
            offer.url,
            _Bounded(target, offer),
            resume_size=done,
            headers=offer.headers,
            expected_size=offer.size,
            displayed_filename=offer.file.name,
        )


class _Bounded(io.BufferedIOBase):
    """The partial file: it takes no more than the server offered, nor more
    than the disk can spare if it offered nothing."""

    def __init__(self, target: BinaryIO, offer: Offer):
        self._target, self._offer = target, offer
        self._room = offer.size

    def write(self, block: Any) -> int:
        place = self._target.tell() + len(block)
        if self._room is not None and place > self._room:
            raise DownloadError(
                f"{self._offer.url} sends more than the {self._room:,} bytes that it offered. It was stopped. "
                f"{by_hand(self._offer.file)}"
            )
        if self._room is None and shutil.disk_usage(Path(self._target.name).parent).free < _SPARE:
            raise DownloadError(
                f"{self._offer.url} tells no size and has filled the disk but for {size_text(_SPARE)}. It was stopped. "
                f"{by_hand(self._offer.file)}"
            )
        return self._target.write(block)

    def tell(self) -> int:
        return self._target.tell()

    def seek(self, *where: int) -> int:
        return self._target.seek(*where)

    def truncate(self, size: int | None = None) -> int:
        return self._target.truncate(size)

    def flush(self) -> None:
        self._target.flush()


def _check(offer: Offer, part: Path) -> None:
    """Compare the whole file with its checksum, if there is one; a wrong file is removed, since nothing can mend it."""
    with part.open("rb") as source:
        start = source.read(512).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        part.unlink()
        raise DownloadError(
            f"What came from {offer.url} is a web page, not {offer.file.name}: a login page, or an error's. It was removed. "
            f"{by_hand(offer.file)}"
        )
    if offer.sha256 is None:
        return
    from tqdm import tqdm

    digest = hashlib.sha256()
    # disable=None: on terminals only, as the transfer's own bar.
    bar = tqdm(desc="check", total=_size_of(part), unit="B", unit_scale=True, disable=None)
    with part.open("rb") as source, bar:
        while block := source.read(_BLOCK):
            digest.update(block)
            bar.update(len(block))
    if digest.hexdigest() != offer.sha256:
        part.unlink()
        raise DownloadError(
            f"What came from {offer.url} is damaged or another file: its sha256 is {digest.hexdigest()}, not {offer.sha256}. "
            f"It was removed; run the same command again. If that does not help: {by_hand(offer.file)}"
        )


def _settle(file: RemoteFile, part: Path) -> list[Path]:
    """Give the whole file its name, or unpack the archive beside it. What is there already stays as it is."""
    if not file.members:
        target = part.with_name(file.name)
        part.replace(target)
        return [target]
    try:
        archive = zipfile.ZipFile(part)
    except zipfile.BadZipFile as error:
        part.unlink()
        raise DownloadError(
            f"{file.name} is not a zip archive, or is damaged ({error}). It was removed. {by_hand(file)}"
        ) from error
    with archive:
        # By their last name: some packs are in a folder of their own within the archive.
        inside = {Path(name).name: name for name in archive.namelist()}
        if absent := [name for name, _ in file.members if name not in inside]:
            raise DownloadError(f"{file.name} lacks {', '.join(absent)}. {by_hand(file)}")
        for name, size in file.members:
            target = part.with_name(name)
            if target.exists():
                continue
            unpacked = part.with_name(f"{name}.unpacking")
            if archive.getinfo(inside[name]).file_size != size:
                found = archive.getinfo(inside[name]).file_size
                raise DownloadError(f"{name} in {file.name} has {found:,} bytes, not {size:,}. {by_hand(file)}")
            try:
                with archive.open(inside[name]) as source, unpacked.open("wb") as copy:
                    shutil.copyfileobj(source, copy, _BLOCK)
            except (zipfile.BadZipFile, zlib.error, EOFError) as error:
                unpacked.unlink(missing_ok=True)
                raise DownloadError(f"{name} in {file.name} is damaged ({error}). {by_hand(file)}") from error
            unpacked.replace(target)
    part.unlink()
    return [part.with_name(name) for name, _ in file.members]


@contextmanager
def _alone(part: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(part.with_name(f"{part.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise DownloadError(f"Another process is fetching {part} right now. Wait for it, or stop it.") from error
    try:
        yield
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def _parts(file: RemoteFile, models: Path) -> list[Path]:
    return sorted((models / file.folder).glob(f"{file.name}.*.part"))


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _hub():
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.file_download
        import huggingface_hub.utils
    except ImportError as error:
        raise DownloadError(
            "Downloads need the package huggingface_hub. Install it with: pip install huggingface_hub (in ComfyUI's own Python)."
        ) from error
    return huggingface_hub
