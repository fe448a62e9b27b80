"""A small Hugging Face Hub on 127.0.0.1, as far as a download needs one: metadata, redirects, ranges, refusals."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Refusal:
    """Answered instead of the file: a status and the Hub's own header for it."""

    status: int
    code: str = ""


@dataclass
class Hub:
    """What the server has, what it does wrong, and what it was asked.

    files: content by path, for example `owner/name/model/unet.pt` for the file `model/unet.pt` of a repository.
    cut: how many bytes of each answer are sent before the connection is dropped. at_half: called when half of an
    answer has been sent.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    refuse: dict[str, Refusal] = field(default_factory=dict)
    cut: int | None = None
    cuts_left: int = 1
    after_cut: Refusal | None = None
    at_half: Callable[[], object] | None = None
    spoil: bool = False  # the last byte arrives wrong
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, range
    tokens: list[tuple[str, str]] = field(default_factory=list)  # host that was asked, token that it was sent
    address: str = ""

    @property
    def elsewhere(self) -> str:
        """The same server under another name: where the content of large files lies, as on the real Hub."""
        return self.address.replace("127.0.0.1", "localhost")

    def ranges(self) -> list[str]:
        """The ranges of all requests for content, in order; empty for a whole file."""
        return [wanted for method, path, wanted in self.asked if method == "GET" and path.startswith("/cdn/")]


def serve(hub: Hub) -> ThreadingHTTPServer:
    """Start serving; the caller shuts it down."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            hub.asked.append((self.command, self.path, self.headers.get("Range", "")))
            hub.tokens.append((self.headers["Host"].partition(":")[0], self.headers.get("Authorization", "")))
            if self.path.startswith("/cdn/"):
                self.send_content(hub.files[self.path.removeprefix("/cdn/")])
                return
            repo, _, rest = self.path.removeprefix("/").partition("/resolve/")
            name = f"{repo}/{rest.partition('/')[2]}"
            refusal = hub.refuse.get(name) or (None if name in hub.files else Refusal(404, "EntryNotFound"))
            if refusal:
                self.send_refusal(refusal)
                return
            content = hub.files[name]
            digest = hashlib.sha256(content).hexdigest()
            self.send_response(302)  # large files lie elsewhere
            self.send_header("Location", f"{hub.elsewhere}/cdn/{name}")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("X-Linked-Etag", f'"{digest}"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def send_refusal(self, refusal: Refusal) -> None:
            self.send_response(refusal.status)
            if refusal.code:
                self.send_header("X-Error-Code", refusal.code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def send_content(self, content: bytes) -> None:
            if hub.cut is not None and hub.cuts_left == 0 and hub.after_cut:
                self.send_refusal(hub.after_cut)
                return
            wanted = self.headers.get("Range", "")
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            body = content[start:]
            if hub.spoil:
                body = body[:-1] + bytes([body[-1] ^ 1])
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(len(body)))
            if wanted:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if self.command == "HEAD":
                return
            if hub.cut is not None and hub.cuts_left:
                hub.cuts_left -= 1
                self.wfile.write(body[: hub.cut])
                self.wfile.flush()
                self.close_connection = True
                self.connection.close()
                return
            half = len(body) // 2
            self.wfile.write(body[:half])
            self.wfile.flush()
            if hub.at_half:
                hub.at_half()
            self.wfile.write(body[half:])

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:  # the client went away, as it may
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server
