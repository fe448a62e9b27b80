"""What a user reads when a download fails for a reason that no server can be made to give."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from faceclip import hub
from faceclip.download.errors import DownloadError, by_hand, explained, transport_errors

UNET = hub.get("unet.pt")


@pytest.fixture
def part(tmp_path: Path) -> Path:
    path = tmp_path / "unet.pt.0123.part"
    path.write_bytes(b"1" * 2_000_000)
    return path


def message_of(error: Exception, part: Path) -> str:
    with pytest.raises(DownloadError) as caught, explained(UNET, "https://mirror.example/unet.pt", part):
        raise error
    assert caught.value.__cause__ is error
    return str(caught.value)


def test_a_disk_that_fills_up_meanwhile(part):
    message = message_of(OSError(errno.ENOSPC, "No space left on device"), part)
    assert f"The disk of {part} is full" in message and "2.0 MB, is kept" in message and "Make room" in message


def test_an_answer_that_is_too_short(part):
    message = message_of(OSError("Consistency check failed"), part)
    assert "https://mirror.example/unet.pt broke off" in message and "same command again" in message and "By hand" in message


def test_every_client_that_huggingface_hub_has_used_is_understood(part):
    import httpx
    import requests

    for error in (httpx.ReadTimeout("slow"), requests.exceptions.ChunkedEncodingError("cut")):
        assert isinstance(error, transport_errors())
        assert f"({type(error).__name__}: {error})" in message_of(error, part)


def test_what_is_wrong_with_the_users_own_folder_is_said_by_the_system(part):
    with pytest.raises(PermissionError), explained(UNET, "https://mirror.example/unet.pt", part):
        raise PermissionError(errno.EACCES, "Permission denied", str(part))


def test_by_hand_names_address_size_and_folder():
    assert by_hand(hub.get("buffalo_l.zip")) == (
        "By hand: download https://github.com/deepinsight/insightface/releases/download/v0.7/buffalo_l.zip (288.6 MB) "
        "in a browser, unpack it, and put its .onnx files into ComfyUI's models/insightface/models/buffalo_l."
    )
