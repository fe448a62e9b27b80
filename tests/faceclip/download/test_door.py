"""Servers that lie about what they send: nothing is written where it should not be, nor more than was offered."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from faceclip import hub
from faceclip.download.errors import DownloadError
from faceclip.download.fetch import ask_server, fetch

BODY = b"\x80\x02" + os.urandom(50_000)


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """A mirror of the Hub; called with the headers of its answers, and the body."""
    told: dict = {}

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            body = told["body"] if self.command == "GET" else b""
            self.send_response(told.get("status", 200))
            length = str(len(told["body"]) if self.command == "GET" else told["size"])
            for name, value in {"Content-Length": length, "X-Repo-Commit": "0" * 40, **told["headers"]}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))

    def tell(body: bytes, size: int | None = None, **others) -> None:
        told.update({"body": body, "size": len(body) if size is None else size, **others})
        told.setdefault("headers", {"ETag": '"' + "0" * 40 + '"'})

    yield tell
    server.shutdown()
    server.server_close()


# Of this one only the server can tell size and checksum.
FILE = replace(hub.get("face_clip_encoder.pt"), size=None, sha256=None)


def get(models: Path) -> list[Path]:
    return fetch(ask_server(FILE), models)


@pytest.mark.parametrize("etag", ["x/../../../y" + "0" * 52, "..\\..\\" + "0" * 58, "g" * 64, "0" * 63 + "/"])
def test_an_etag_that_is_no_checksum_becomes_no_part_of_a_name(etag: str, mirror: Callable[..., None], tmp_path: Path) -> None:
    mirror(BODY, headers={"ETag": f'"{etag}"'})
    models = tmp_path / "ComfyUI" / "models"
    offer = ask_server(FILE)
    assert offer.sha256 is None and offer.part(models).parent == models / "faceclip"
    assert get(models) == [models / "faceclip" / "face_clip_encoder.pt"]
    assert [path.name for path in (models / "faceclip").iterdir()] == ["face_clip_encoder.pt"]


def test_more_than_was_offered_is_not_taken(mirror: Callable[..., None], tmp_path: Path) -> None:
    mirror(BODY, size=1000)
    with pytest.raises(DownloadError, match="more than the 1,000 bytes|broke off|another size"):
        get(tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 1000


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><title>Sign in</title>", b"\n<html><body>blocked by your school"])
def test_a_web_page_is_no_model(page: bytes, mirror: Callable[..., None], tmp_path: Path) -> None:
    mirror(page.ljust(5000))
    with pytest.raises(DownloadError, match=r"is a web page, not face_clip_encoder\.pt.*It was removed"):
        get(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "hf" not in path.parts]


def test_redirects_that_never_end_are_told(mirror: Callable[..., None], tmp_path: Path) -> None:
    mirror(b"", status=302, headers={"Location": "/round/and/round"})
    with pytest.raises(DownloadError, match="face_clip_encoder.pt"):
        get(tmp_path)
