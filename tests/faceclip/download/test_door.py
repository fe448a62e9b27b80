"""Servers that lie about what they send: nothing is written where it should not be, nor more than was offered."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.utils
import pytest

from faceclip import hub
from faceclip.download.errors import DownloadError
from faceclip.download.fetch import ask_server, fetch
from faceclip.download.redirects import require_safe

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
            changed = told["answer"](self.path) if "answer" in told else {}
            body = b"" if changed else body
            self.send_response(changed.get("status", 200))
            length = str(len(told["body"]) if self.command == "GET" else told["size"])
            headers = {"Content-Length": length, "X-Repo-Commit": "0" * 40, **told["headers"], **changed.get("headers", {})}
            for name, value in headers.items():
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


def led(mirror: Callable[..., None], way: list[str]) -> list[str]:
    """The mirror leads on to each place of `way`, then has the file; the paths it was asked for, in order."""
    places = dict(zip(["", *way], [*way, None], strict=True))
    asked: list[str] = []

    def answer(path: str) -> dict:
        asked.append(path)
        target = places[path if path in places else ""]
        return {} if target is None else {"status": 302, "headers": {"Location": target, "Content-Length": "0"}}

    mirror(BODY, answer=answer)
    return asked


@pytest.mark.parametrize("stations", [1, 5])
def test_a_mirror_may_lead_on_a_few_times(stations: int, mirror: Callable[..., None], tmp_path: Path) -> None:
    led(mirror, [f"/there/{i}" for i in range(stations)])
    (path,) = get(tmp_path / "models")
    assert path.read_bytes() == BODY


def test_redirects_without_end_are_followed_five_times(mirror: Callable[..., None], tmp_path: Path) -> None:
    asked = led(mirror, [f"/there/{i}" for i in range(40)])
    with pytest.raises(DownloadError, match=r"/there/4 leads on once more, after 5 redirects.*not followed. By hand"):
        get(tmp_path / "models")
    assert len(asked) == 6


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "javascript:alert(1)", "data:,x"])
def test_a_redirect_out_of_the_web_is_not_followed(target: str, mirror: Callable[..., None], tmp_path: Path) -> None:
    asked = led(mirror, [target])
    with pytest.raises(DownloadError, match=f"leads on to '{re.escape(target[:4])}.*It was not followed"):
        get(tmp_path / "models")
    assert len(asked) == 1 and not list((tmp_path / "models").rglob("*.pt"))


def test_a_redirect_from_https_to_http_is_not_followed() -> None:
    for here, target in (
        ("https://a", "https://b"),
        ("http://a", "https://b"),
        ("http://a", "http://b"),
        ("HTTPS://a", "HTTPS://b"),
    ):
        require_safe(here, target, FILE)
    with pytest.raises(DownloadError, match=r"https://a leads on to 'http://b/x', without encryption"):
        require_safe("https://a", "http://b/x", FILE)


def test_what_else_uses_the_client_is_left_alone(mirror: Callable[..., None], tmp_path: Path) -> None:
    session = huggingface_hub.utils.get_session()
    before = list(session.event_hooks["response"])
    led(mirror, [f"/there/{i}" for i in range(40)])
    with pytest.raises(DownloadError):
        get(tmp_path / "models")
    assert session.event_hooks["response"] == before
