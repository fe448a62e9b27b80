"""What goes wrong while a file is fetched, told with its address, its
size, its folder, and the way to do it by hand."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..hub import HUGGING_FACE, RemoteFile, size_text


class DownloadError(RuntimeError):
    """A file could not be fetched; the message says why, and how to get it without this command."""


def by_hand(file: RemoteFile) -> str:
    """How a person gets the file into its place with a browser."""
    how, what = (", unpack it,", "its .onnx files") if file.members else ("", "it")
    return (
        f"By hand: download {file.url} ({file.size_told}) in a browser{how} and put {what} into ComfyUI's models/{file.folder}."
    )


@contextmanager
def explained(file: RemoteFile, url: str, part: Path | None = None) -> Iterator[None]:
    """Turn what huggingface_hub raises within into DownloadError. `part`: the partial file, if fetching has begun."""
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        yield
    except (EntryNotFoundError, RevisionNotFoundError) as error:
        raise DownloadError(_not_found(file, url)) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if isinstance(error, RepositoryNotFoundError) or status in (401, 403):  # gated ones are among the former
            raise DownloadError(_no_access(file, url, status)) from error
        if status == 404:
            raise DownloadError(_not_found(file, url)) from error
        raise DownloadError(f"The server answered {status} for {url}. {_kept(part)}{_later()} {by_hand(file)}") from error
    except transport_errors() as error:
        raise DownloadError(
            f"No connection to {url} ({type(error).__name__}: {error}). {_kept(part)}{_later()} {by_hand(file)}"
        ) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DownloadError(
                f"The disk of {part} is full. {_kept(part)}Make room and run the same command again. {by_hand(file)}"
            ) from error
        if error.errno is not None:  # of the user's own disk: rights, a broken link, ...
            raise
        raise DownloadError(f"The answer of {url} broke off. {_kept(part)}{_later()} {by_hand(file)}") from error


def _not_found(file: RemoteFile, url: str) -> str:
    return (
        f"There is no file at {url} (404). It may have been moved or renamed: look at {file.page}. A mirror may lack it: unset "
        f"HF_ENDPOINT if it is set. {by_hand(file)}"
    )


def _no_access(file: RemoteFile, url: str, status: int) -> str:
    page = f"{HUGGING_FACE}/{file.on_hub[0]}" if file.on_hub else file.page
    return (
        f"The server refuses {url} ({status}): the repository may be gated. Open {page}, sign in and accept its terms; then run "
        f"`hf auth login`, or set HF_TOKEN, and run the same command again. {by_hand(file)}"
    )


def _kept(part: Path | None) -> str:
    if part is None or not part.exists():
        return ""
    return f"What has come, {size_text(part.stat().st_size)}, is kept in {part}. "


def _later() -> str:
    return "Check the network and run the same command again; behind a firewall, set HF_ENDPOINT to a mirror you trust."


def transport_errors() -> tuple[type[Exception], ...]:
    """What the HTTP client raises: huggingface_hub has had `requests`, then `httpx`, then `httpx2`."""
    known = (("requests", "RequestException"), ("httpx", "RequestError"), ("httpx2", "RequestError"))
    return tuple(getattr(sys.modules[name], error) for name, error in known if name in sys.modules)
