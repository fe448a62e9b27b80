"""Where a server may send a download on to, held to whatever the HTTP client would follow by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urljoin, urlsplit

from ..hub import RemoteFile
from .errors import DownloadError, by_hand

MOST_REDIRECTS = 5  # the Hub sends a file once to its storage, GitHub once; a mirror may put one or two before


@contextmanager
def bounded(hub: Any, file: RemoteFile) -> Iterator[None]:
    """While inside, what `huggingface_hub` (given as `hub`) fetches is led
    on at most 5 times, and never from https to less.

    Within, DownloadError is raised before anything is asked of a place where it must not go.
    """
    in_a_row = 0

    def look(response: Any, *_: Any, **__: Any) -> None:
        nonlocal in_a_row
        target = response.headers.get("location")
        if target is None or response.status_code not in (301, 302, 303, 307, 308):
            in_a_row = 0
            return
        in_a_row += 1
        here = str(response.url)
        if in_a_row > MOST_REDIRECTS:
            raise DownloadError(
                f"{here} leads on once more, after {MOST_REDIRECTS} redirects. It was not followed. {by_hand(file)}"
            )
        require_safe(here, urljoin(here, target), file)

    hooks = _hooks(hub.utils.get_session())
    hooks.append(look)
    try:
        yield
    finally:
        hooks.remove(look)


def require_safe(here: str, target: str, file: RemoteFile) -> None:
    """Raise DownloadError unless a download may go on from `here` to
    `target`: over https, or plain http that it began with."""
    scheme = urlsplit(target).scheme.lower()
    if scheme == "https" or (scheme == "http" and urlsplit(here).scheme.lower() == "http"):
        return
    what = "without encryption (http)" if scheme == "http" else f"by {scheme or 'no protocol'}"
    raise DownloadError(
        f"{here} leads on to {target[:200]!r}, {what}. It was not followed: anybody could answer. {by_hand(file)}"
    )


def _hooks(session: Any) -> list[Any]:
    """What the client calls with each answer: httpx's clients and requests' sessions keep such a list."""
    hooks = getattr(session, "event_hooks", None) or session.hooks
    return hooks["response"]
