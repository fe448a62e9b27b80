"""`faceclip download` against a Hub on this machine: the real command, the real huggingface_hub, real files."""

from __future__ import annotations

import ast
import hashlib
import io
import os
import re
import signal
import socket
import sys
import time
import zipfile
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from faceclip import hub
from faceclip.cli import main
from faceclip.download.fetch import ask_server

from .hub_server import COMMIT, Hub, Refusal, serve

VAE = "stabilityai/sdxl-vae/sdxl_vae.safetensors"
ENCODER = "ByteDance/FaceCLIP/model/face_clip_encoder.pt"
UNET = "ByteDance/FaceCLIP/model/unet.pt"
CONTENT = os.urandom(1 << 20)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The mirror that HF_ENDPOINT names.

    The table knows the VAE as the mirror has it, and two files without exact size.
    """
    content = Hub({VAE: CONTENT, ENCODER: CONTENT[:70_000], UNET: CONTENT[:90_000]})
    running = serve(content)
    monkeypatch.setenv("HF_ENDPOINT", content.address)
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_user")
    # Small blocks, as a slow line would bring them: what is cut off is on the disk up to then.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 16)
    know(monkeypatch, "sdxl_vae.safetensors", size=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())
    know(monkeypatch, "face_clip_encoder.pt", sha256=hashlib.sha256(CONTENT[:70_000]).hexdigest())
    yield content
    running.shutdown()
    running.server_close()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "my models"  # people have spaces
    folder.mkdir()
    return folder


def know(monkeypatch: pytest.MonkeyPatch, name: str, **facts: object) -> None:
    """Change what the table says of a file."""
    changed = tuple(replace(file, **facts) if file.name == name else file for file in hub.FILES)  # type: ignore[arg-type]
    monkeypatch.setattr(hub, "FILES", changed)


def fetch(models: Path, *arguments: str) -> int:
    return main(["download", *arguments, "--to", str(models), "--accept-licence"])


def error_of(capsys: pytest.CaptureFixture[str], models: Path, *arguments: str) -> str:
    """The one line of a command that must fail; progress bars are not part of it."""
    assert fetch(models, *arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "faceclip: error: " in line]
    return line[line.index("faceclip: error: ") :]


def test_the_files_that_the_workflows_need_come_into_their_folders(server, models, capsys, monkeypatch):
    monkeypatch.setenv("TQDM_POSITION", "-1")  # a bar even though this is no terminal
    assert fetch(models) == 0
    assert (models / "faceclip" / "face_clip_encoder.pt").read_bytes() == server.files[ENCODER]
    assert (models / "faceclip" / "unet.pt").read_bytes() == server.files[UNET]
    assert (models / "vae" / "sdxl_vae.safetensors").read_bytes() == CONTENT
    assert len([path for path in models.rglob("*") if path.is_file()]) == 3, "no partial file, no lock, no metadata stays"
    shown = capsys.readouterr()
    assert "CC BY-NC 4.0" in shown.out and "MIT" in shown.out and "faceclip convert" in shown.out
    assert "unet.pt: 100%" in shown.err
    # The very version that the metadata spoke of, whatever is published meanwhile.
    assert [path for method, path, _ in server.asked if method == "GET" and "unet" in path and "resolve" in path] == [
        f"/ByteDance/FaceCLIP/resolve/{COMMIT}/model/unet.pt"
    ]
    sent = {token for (_, path, _), token in zip(server.asked, server.tokens, strict=True) if not path.startswith("/api/")}
    assert sent == {("127.0.0.1", "Bearer hf_of_the_user"), ("localhost", "")}, "the token is for the Hub alone"


def test_what_is_there_is_not_fetched_again_even_offline(server, models, capsys, monkeypatch):
    assert fetch(models) == 0
    before = len(server.ranges())
    assert main(["download", "--to", str(models)]) == 0, "no licence is asked for when nothing is fetched"
    assert len(server.ranges()) == before
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    capsys.readouterr()
    assert main(["download", "--to", str(models)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("not fetched again") == 3
    assert shown.count("could not be compared") == 2, "of the two whose size the table does not know"


def test_a_file_of_another_size_is_the_users_own(server, models, capsys):
    for folder, name in (("vae", "sdxl_vae.safetensors"), ("faceclip", "unet.pt")):
        (models / folder).mkdir()
        (models / folder / name).write_bytes(b"mine")
        error = error_of(capsys, models, name)
        assert "has 4 bytes, the published file" in error and "not touched" in error
        assert (models / folder / name).read_bytes() == b"mine"
    assert server.ranges() == []


def test_a_connection_that_drops_is_taken_up_again_by_itself(server, models):
    server.cut = 300_000
    assert fetch(models, "sdxl_vae.safetensors") == 0
    assert (models / "vae" / "sdxl_vae.safetensors").read_bytes() == CONTENT
    first, second = server.ranges()
    assert first == "" and 0 < int(second.removeprefix("bytes=").rstrip("-")) <= 300_000


def test_a_server_that_fails_in_the_middle_leaves_what_the_next_run_goes_on_from(server, models, capsys):
    server.cut, server.after_cut = 300_000, Refusal(503)
    error = error_of(capsys, models, "sdxl_vae.safetensors")
    (part,) = (models / "vae").glob("*.part")
    kept = part.stat().st_size
    assert 0 < kept <= 300_000
    assert f"answered 503 for {server.address}/stabilityai/sdxl-vae/resolve" in error
    assert f"{kept / 1e6:.1f} MB, is kept in {part}" in error and "same command again" in error
    assert "By hand: download https://huggingface.co/stabilityai/sdxl-vae/resolve/main/sdxl_vae.safetensors (1.0 MB)" in error
    assert "models/vae" in error
    assert not (models / "vae" / "sdxl_vae.safetensors").exists()

    server.cut = None
    assert fetch(models, "sdxl_vae.safetensors") == 0
    assert (models / "vae" / "sdxl_vae.safetensors").read_bytes() == CONTENT
    assert server.ranges()[-1] == f"bytes={kept}-"
    assert not part.exists()


@pytest.fixture
def _ctrl_c_works():
    """A job in a shell's background has Ctrl-C ignored, and Python then installs no handler."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c_works")
def test_ctrl_c_keeps_what_has_come(server, models, capsys):
    def stop() -> None:
        deadline = time.monotonic() + 20
        while not any(part.stat().st_size for part in models.glob("vae/*.part")) and time.monotonic() < deadline:
            time.sleep(0.01)
        signal.raise_signal(signal.SIGINT)

    server.at_half = stop
    with pytest.raises(SystemExit) as stopped:
        fetch(models, "sdxl_vae.safetensors")
    assert stopped.value.code == 130
    assert "goes on from there" in capsys.readouterr().err
    (part,) = (models / "vae").glob("*.part")
    kept = part.stat().st_size
    assert 0 < kept < len(CONTENT) and CONTENT.startswith(part.read_bytes())

    server.at_half = None
    assert fetch(models, "sdxl_vae.safetensors") == 0
    assert server.ranges()[-1] == f"bytes={kept}-"
    assert (models / "vae" / "sdxl_vae.safetensors").read_bytes() == CONTENT


def test_a_part_of_another_version_is_not_continued(server, models):
    (models / "vae").mkdir()
    old = models / "vae" / "sdxl_vae.safetensors.0123456789ab.part"
    old.write_bytes(b"old" * 1000)
    assert fetch(models, "sdxl_vae.safetensors") == 0
    assert server.ranges() == [""] and not old.exists()
    assert (models / "vae" / "sdxl_vae.safetensors").read_bytes() == CONTENT


def test_damaged_content_is_refused_and_removed(server, models, capsys):
    server.spoil = True
    error = error_of(capsys, models, "sdxl_vae.safetensors")
    assert "damaged or another file" in error and hashlib.sha256(CONTENT).hexdigest() in error and "By hand" in error
    assert list((models / "vae").iterdir()) == []


@pytest.mark.parametrize("facts", [{"sha256": "0" * 64}, {"size": 5, "sha256": None}])
def test_a_mirror_with_another_file_is_refused_before_anything_is_fetched(server, models, capsys, monkeypatch, facts):
    know(monkeypatch, "sdxl_vae.safetensors", **facts)
    error = error_of(capsys, models, "sdxl_vae.safetensors")
    assert "another file than the published" in error and "HF_ENDPOINT" in error
    assert server.ranges() == []


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (Refusal(401, "GatedRepo"), ("refuses", "https://huggingface.co/ByteDance/FaceCLIP,", "hf auth login", "HF_TOKEN")),
        (Refusal(403, "GatedRepo"), ("refuses", "accept its terms")),
        (Refusal(401), ("refuses", "hf auth login")),
        (Refusal(404, "EntryNotFound"), ("404", "blob/main/model/unet.pt", "HF_ENDPOINT")),
        (Refusal(500), ("answered 500", "same command again")),
    ],
)
def test_refusals_say_what_to_do(server, models, capsys, refusal, words):
    server.refuse[UNET] = refusal
    error = error_of(capsys, models, "unet.pt")
    for word in (*words, server.address, "By hand", "models/faceclip", "5.1 GB"):
        assert word in error
    assert "hf_of_the_user" not in error
    assert list(models.iterdir()) == []


def test_without_a_network_the_message_says_how_to_do_it_by_hand(server, models, capsys, monkeypatch):
    with socket.socket() as taken:  # a port that nobody listens on
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        error = error_of(capsys, models, "sdxl_vae.safetensors")
    assert "No connection to http://127.0.0.1" in error and "By hand" in error and "(1.0 MB)" in error


def test_offline_mode_is_respected(server, models, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in error_of(capsys, models, "sdxl_vae.safetensors")
    assert server.asked == []


def test_a_full_disk_is_noticed_before_anything_is_fetched(server, models, capsys, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(0, 0, 250 << 20))
    error = error_of(capsys, models)
    assert "Not enough space" in error and "1.2 MB are to come, 262.1 MB are free" in error and "--to" in error
    assert server.ranges() == []


def test_two_at_once_do_not_mix(server, models, capsys):
    from filelock import FileLock

    offer = ask_server(hub.get("sdxl_vae.safetensors"))
    part = offer.part(models)
    part.parent.mkdir()
    with FileLock(part.with_name(f"{part.name}.lock")):
        assert "Another process is fetching" in error_of(capsys, models, "sdxl_vae.safetensors")
    assert fetch(models, "sdxl_vae.safetensors") == 0


def test_a_detector_pack_is_unpacked_and_what_was_there_stays(server, models, monkeypatch, capsys):
    members = {"det_10g.onnx": b"detector" * 100, "w600k_r50.onnx": b"judge" * 100}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"buffalo_l/{name}", content)  # in a folder of its own, as antelopev2 is
    packed = buffer.getvalue()
    server.files["pack.zip"] = packed
    know(
        monkeypatch,
        "buffalo_l.zip",
        url=f"{server.address}/cdn/pack.zip",
        size=len(packed),
        sha256=hashlib.sha256(packed).hexdigest(),
        members=tuple((name, len(content)) for name, content in members.items()),
    )
    folder = models / "insightface" / "models" / "buffalo_l"
    folder.mkdir(parents=True)
    (folder / "det_10g.onnx").write_bytes(b"D" * 800)
    assert fetch(models, "buffalo_l") == 0
    assert (folder / "w600k_r50.onnx").read_bytes() == members["w600k_r50.onnx"]
    assert (folder / "det_10g.onnx").read_bytes() == b"D" * 800
    assert len(list(folder.iterdir())) == 2
    assert "non-commercial research only" in capsys.readouterr().out
    asked = len(server.asked)
    assert fetch(models, "buffalo_l") == 0 and len(server.asked) == asked


def test_the_licence_is_shown_and_asked_for(server, models, capsys, monkeypatch):
    command = ["download", "unet.pt", "--to", str(models)]
    assert main(command) == 2  # no terminal
    shown = capsys.readouterr()
    assert "CC BY-NC 4.0, https://creativecommons.org/licenses/by-nc/4.0/" in shown.out
    assert "--accept-licence" in shown.err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    for answer, code in (("no", 2), ("", 2), ("yes", 0)):
        assert server.asked == []
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        assert main(command) == code
    assert (models / "faceclip" / "unet.pt").exists()


def test_the_list_shows_what_is_there_and_asks_nobody(server, models, capsys):
    (models / "vae").mkdir()
    (models / "vae" / "sdxl_vae.safetensors").write_bytes(CONTENT)
    (models / "faceclip").mkdir()
    (models / "faceclip" / "unet.pt.unknown.part").write_bytes(b"1")
    assert main(["download", "--list", "--to", str(models)]) == 0
    shown = capsys.readouterr().out
    for found, place in (("there", "vae/sdxl_vae.safetensors"), ("begun", "faceclip/unet.pt")):
        assert re.search(rf"^{found} +{place}, ", shown, flags=re.MULTILINE)
    assert re.search(r"^missing +faceclip/face_clip_encoder.pt, 3.15 GB, CC BY-NC 4.0$", shown, flags=re.MULTILINE)
    assert "https://huggingface.co/ByteDance/FaceCLIP/blob/main/model/unet.pt" in shown and "288.6 MB" in shown
    assert server.asked == []


def test_an_unknown_name_lists_the_known_ones(models, capsys):
    error = error_of(capsys, models, "nothing.pt")
    assert "nothing.pt" in error and "face_clip_encoder.pt" in error and "antelopev2.zip" in error


def test_without_the_package_the_message_names_the_command(server, models, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install huggingface_hub" in error_of(capsys, models, "sdxl_vae.safetensors")


def test_no_node_can_reach_what_downloads():
    # What a graph runs, and all of the library that it can reach, also within functions.
    root = Path(hub.__file__).parents[1]
    waiting, reached, outside = [*(root / "nodes").rglob("*.py"), root / "__init__.py"], set(), set()
    while waiting:
        path = waiting.pop()
        if path in reached or not path.is_file():
            continue
        reached.add(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                outside |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level:
                base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
                for module in (base, *(base / alias.name for alias in node.names)):
                    waiting += [module.with_suffix(".py"), module / "__init__.py"]
            elif isinstance(node, ast.ImportFrom):
                outside.add((node.module or "").split(".")[0])
    names = {path.relative_to(root).as_posix() for path in reached}
    assert {"faceclip/model/encoder.py", "faceclip/encoder_file.py", "faceclip/face/insightface_backend.py"} <= names
    assert not {name for name in names if name.startswith(("faceclip/download/", "faceclip/cli/"))}
    assert not outside & {"huggingface_hub", "urllib", "http", "socket", "requests", "httpx", "aiohttp", "subprocess"}
