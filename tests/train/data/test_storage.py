"""Shards and sources by real HTTP from a server on this machine, and what is said where that cannot work."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from train.data.batches import TrainingData
from train.data.shard_index import INDEX_SUFFIX, ShardError
from train.data.shards import Sample, ShardSource, write_shard
from train.data.storage import StorageError, list_files, read_range
from train.prepare.command import main, prepare
from train.prepare.unit import Options


class Server(ThreadingHTTPServer):
    """Serves a folder; `asked` is each GET's path and range."""

    daemon_threads = True

    def __init__(self, folder: Path, ranges: bool):
        self.folder, self.ranges = folder, ranges
        self.asked: list[tuple[str, str | None]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(SimpleHTTPRequestHandler):
    """The standard library's server of files, which knows no ranges, and with `ranges` one that does."""

    server: Server

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, directory=str(args[2].folder), **options)

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append((self.path, asked))
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", asked or "")
        path = Path(self.translate_path(self.path))
        if not (self.server.ranges and found and path.is_file()):
            super().do_GET()
            return
        data = path.read_bytes()
        part = data[int(found[1]) : int(found[2]) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {found[1]}-{found[2]}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def end_headers(self) -> None:
        if self.server.ranges:
            self.send_header("Accept-Ranges", "bytes")
        super().end_headers()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("served")
    write_shard(root / "shards" / "a.tar", samples(5))
    write_shard(root / "shards" / "b.tar", samples(4, 5))
    write_shard(root / "bare" / "c.tar", samples(5))
    (root / "bare" / f"c.tar{INDEX_SUFFIX}").unlink()
    return root


def samples(count: int, start: int = 0) -> list[Sample]:
    return [
        Sample(f"s{n}", b"image" * 100 * n + b"!", b"face" * n, f"caption {n}", {"n": n}) for n in range(start, start + count)
    ]


def serve(folder: Path, ranges: bool) -> Iterator[Server]:
    with Server(folder, ranges) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    yield from serve(folder, ranges=True)


@pytest.fixture
def plain_server(folder: Path) -> Iterator[Server]:
    yield from serve(folder, ranges=False)


def test_rows_come_by_range_requests_from_folders_patterns_and_names(server: Server) -> None:
    names = f"{server.url}/shards/a.tar", f"{server.url}/shards/b.tar"
    for path in (f"{server.url}/shards/", f"{server.url}/shards/*.tar", names):
        assert ShardSource(path).shards == list(names)
    source = ShardSource(f"{server.url}/shards/")
    server.asked.clear()
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(source.__getitem__, range(9))) == samples(9)
    assert len(server.asked) == 9 and all(given for _, given in server.asked)  # one request a row
    assert source.fingerprint == ShardSource(server.folder / "shards").fingerprint


def test_a_shard_without_index_is_scanned_by_ranges(server: Server) -> None:
    source = ShardSource(f"{server.url}/bare/c.tar")
    assert [source[row] for row in range(5)] == samples(5)
    assert all(given for path, given in server.asked if path.endswith(".tar"))


def test_training_data_by_url(server: Server) -> None:
    def light(sample: Sample, random: np.random.Generator) -> dict[str, Any]:
        return {"caption": sample.caption}

    batches = [
        [batch["key"] for batch in islice(TrainingData(ShardSource(path), None, 0, 3, 1, 0, 1, light), 4)]
        for path in (f"{server.url}/shards/", server.folder / "shards")
    ]
    assert batches[0] == batches[1]


def test_sources_of_preparing_by_url(server: Server, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    root = server.folder / "source"
    root.mkdir()
    Image.radial_gradient("L").resize((300, 280)).convert("RGB").save(root / "p.jpg")
    write_shard(root / "w.tar", [Sample("one", (root / "p.jpg").read_bytes(), None, "words of a caption")])
    rows = [{"path": "p.jpg", "caption": "words of a caption"}, {"path": "gone.jpg", "caption": "words of a caption"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), root / "t.parquet")
    (root / "t.csv").write_text(f"path,caption\n{server.url}/source/p.jpg,words of a caption\ngone.jpg,words of a caption\n")
    for name in ("t.parquet", "t.csv", "w.tar"):
        out = tmp_path / name
        assert main([f"{server.url}/source/{name}", str(out), "--no-faces", "--workers", "1"]) == 0
        assert ShardSource(out)[0].caption == "words of a caption"
        if name != "w.tar":
            (line,) = (out / "dropped.jsonl").read_text().splitlines()
            assert "broken photograph" in line and f"{server.url}/source/gone.jpg" in line


def test_a_server_without_ranges(plain_server: Server) -> None:
    source = ShardSource(f"{plain_server.url}/shards/a.tar")  # the index is read whole
    with pytest.raises(StorageError, match="/a.tar answers with the whole file where .* bytes of it are asked for. Use a server"):
        source[1]
    with pytest.raises(StorageError, match="/c.tar answers with the whole file where 1 bytes"):
        ShardSource(f"{plain_server.url}/bare/c.tar")


def test_what_is_not_there(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ShardError, match="No shard at http://.*/nothing/: there is no .tar there"):
        ShardSource(f"{server.url}/nothing/")
    with pytest.raises(ShardError, match="No shard at http://.*gone.tar"):
        ShardSource(f"{server.url}/shards/gone.tar")
    assert main([f"{server.url}/gone.csv", str(tmp_path / "out")]) == 1
    assert "There is no file http://127.0.0.1:" in capsys.readouterr().err
    source = ShardSource(f"{server.url}/bare/c.tar")
    (server.folder / "bare" / "c.tar").rename(server.folder / "bare" / "away")
    with pytest.raises(ShardError, match="There is no shard http://.*c.tar any more"):
        source[0]
    (server.folder / "bare" / "away").rename(server.folder / "bare" / "c.tar")


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="http://127.0.0.1:9/shards/ cannot be reached .*Cannot connect.* Check the address"):
        ShardSource("http://127.0.0.1:9/shards/")


def test_a_file_system_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(StorageError, match="s3://bucket/a.tar cannot be opened: Install s3fs .* with pip"):
        ShardSource("s3://bucket/a.tar")
    with pytest.raises(StorageError, match="nope://x cannot be opened .*Protocol not known: nope"):
        prepare("nope://x", str(tmp_path), Options())
    with pytest.raises(StorageError, match="s3://bucket/x cannot be opened"):
        read_range("s3://bucket/x", 0, 10)


def test_listing_is_sorted_and_by_whole_urls(server: Server) -> None:
    listed = list_files(f"{server.url}/shards/")
    assert listed == sorted(listed) and all(name.startswith(f"{server.url}/shards/") for name in listed) and len(listed) == 4
