"""Shards: written, indexed, read at random, and refused when damaged."""

from __future__ import annotations

import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from train.data.shard_index import INDEX_SUFFIX, ShardError
from train.data.shards import Sample, ShardSource, write_shard


def samples(count: int, start: int = 0) -> list[Sample]:
    """Samples whose bytes tell which one they are; every third has no face."""
    return [
        Sample(f"s{n:04d}", b"image" * n + b"!", None if n % 3 == 0 else b"face" * n, f"caption {n} é", {"identity": n % 5})
        for n in range(start, start + count)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shard(tmp_path / "a-000000.tar", samples(7))
    write_shard(tmp_path / "a-000001.tar", samples(5, start=7))
    return tmp_path


def test_every_row_comes_back_as_it_was_written(folder: Path) -> None:
    source = ShardSource(folder)
    assert len(source) == 12
    assert [source[row] for row in range(12)] == samples(12)
    assert [source.key(row) for row in (11, 0)] == ["s0011", "s0000"]
    assert source[8].identity == 8 % 5
    with pytest.raises(IndexError, match="There is no row 12: the source has 12"):
        source[12]


def test_the_tars_are_webdatasets(folder: Path) -> None:
    from webdataset.compat import WebDataset

    read = list(WebDataset(str(folder / "a-000000.tar"), shardshuffle=False))
    assert [row["__key__"] for row in read] == [sample.key for sample in samples(7)]
    assert read[1]["face.jpg"] == samples(7)[1].face
    assert read[2]["txt"].decode() == samples(7)[2].caption
    assert "face.jpg" not in read[3]


def test_a_tar_written_by_others_needs_no_index(folder: Path, tmp_path: Path) -> None:
    (folder / f"a-000000.tar{INDEX_SUFFIX}").unlink()
    source = ShardSource(folder / "a-000000.tar")
    assert [source[row] for row in range(7)] == samples(7)


def test_only_the_members_asked_for_are_read(folder: Path) -> None:
    row = ShardSource(folder, read=("caption", "meta"))[4]
    assert (row.image, row.face, row.caption, row.identity) == (b"", None, "caption 4 é", 4)
    with pytest.raises(ShardError, match="no member \\['latent'\\]"):
        ShardSource(folder, read=("latent",))  # type: ignore[arg-type]


def test_the_index_is_a_safetensors_file(folder: Path) -> None:
    from safetensors import safe_open

    with safe_open(folder / f"a-000000.tar{INDEX_SUFFIX}", "np") as index:
        assert index.get_tensor("spans").shape == (7, 4, 2)
        assert index.metadata()["bytes"] == str((folder / "a-000000.tar").stat().st_size)
        assert bytes(index.get_tensor("keys")[6]) == b"s0006"


def test_the_same_samples_give_the_same_bytes_and_the_fingerprint_tells_others(folder: Path, tmp_path: Path) -> None:
    write_shard(tmp_path / "again" / "b.tar", samples(7))
    first, again = (folder / "a-000000.tar"), tmp_path / "again" / "b.tar"
    assert first.read_bytes() == again.read_bytes()
    assert Path(f"{first}{INDEX_SUFFIX}").read_bytes() == Path(f"{again}{INDEX_SUFFIX}").read_bytes()
    assert ShardSource(first).fingerprint == ShardSource(again).fingerprint
    changed = samples(7)
    changed[3] = Sample("s0003", changed[3].image, None, "caption 4 é", changed[3].meta)  # as long as before
    write_shard(again, changed)
    assert ShardSource(first).fingerprint != ShardSource(again).fingerprint


def test_urls_are_read_and_written(folder: Path) -> None:
    write_shard("memory://bucket/shards/m.tar", samples(4))
    assert fsspec.filesystem("memory").exists("/bucket/shards/m.tar.index")
    for path in ("memory://bucket/shards", "memory://bucket/shards/*.tar", "memory://bucket/shards/m.tar"):
        source = ShardSource(path)
        assert [source[row] for row in range(4)] == samples(4)
    both = ShardSource([folder, "memory://bucket/shards"])
    assert both[13] == samples(4)[1]


def test_a_source_serves_many_threads_and_survives_pickling(folder: Path) -> None:
    source = pickle.loads(pickle.dumps(ShardSource(folder)))
    with ThreadPoolExecutor(8) as threads:
        read = list(threads.map(source.__getitem__, list(range(12)) * 20))
    assert read == samples(12) * 20


def test_empty_shard(folder: Path) -> None:
    (folder / "a-000001.tar").write_bytes(b"")
    with pytest.raises(ShardError, match="a-000001.tar is empty \\(0 bytes\\)"):
        ShardSource(folder)


def test_truncated_shard_with_its_index(folder: Path) -> None:
    shard = folder / "a-000001.tar"
    shard.write_bytes(shard.read_bytes()[:3000])
    with pytest.raises(ShardError, match="a-000001.tar was cut short: 3,000 bytes, its index says .* Copy it again"):
        ShardSource(folder)


def test_truncated_shard_without_index(folder: Path) -> None:
    shard = folder / "a-000001.tar"
    (folder / f"a-000001.tar{INDEX_SUFFIX}").unlink()
    whole = shard.read_bytes()
    for length in (5 * 1024 + 10, 700):
        shard.write_bytes(whole[:length])
        with pytest.raises(ShardError, match="a-000001.tar (was cut short|is not a tar, or damaged)"):
            ShardSource(folder)


def test_a_shard_cut_while_it_is_read(folder: Path) -> None:
    source = ShardSource(folder)
    shard = folder / "a-000001.tar"
    shard.write_bytes(shard.read_bytes()[:3000])
    with pytest.raises(ShardError, match="a-000001.tar was cut short"):
        source[11]


def test_an_exchanged_shard_and_a_damaged_index(folder: Path) -> None:
    shard, index = folder / "a-000001.tar", folder / f"a-000001.tar{INDEX_SUFFIX}"
    shard.write_bytes(shard.read_bytes() + b"\0" * 512)
    with pytest.raises(ShardError, match="is not the tar its index was made for"):
        ShardSource(folder)
    for damage in (b"", b"nonsense" * 9, index.read_bytes()[:200], index.read_bytes()[:-1]):
        index.write_bytes(damage)
        with pytest.raises(ShardError, match="The index .* is damaged .* Delete it"):
            ShardSource(folder)


def test_no_tar_and_no_sample(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="No shard at .*nothing: there is no .tar.*python -m train.prepare"):
        ShardSource(tmp_path / "nothing")
    (tmp_path / "other.tar").write_bytes(b"this is text, not a tar" * 50)
    with pytest.raises(ShardError, match="other.tar is not a tar, or damaged"):
        ShardSource(tmp_path)
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        tar.add(__file__, arcname="code.py")
    with pytest.raises(ShardError, match="other.tar holds no sample: none of its files ends in .jpg"):
        ShardSource(tmp_path)


def test_a_missing_caption(folder: Path) -> None:
    with tarfile.open(folder / "a-000002.tar", "w") as tar:
        tar.add(__file__, arcname="x.jpg")
    source = ShardSource(folder)
    assert source.missing("caption") == 1
    with pytest.raises(ShardError, match="'x' of .*a-000002.tar has no caption \\(no x.txt\\)"):
        source[12]
    assert ShardSource(folder, read=("image",))[12].image == Path(__file__).read_bytes()


def test_a_json_that_cannot_be_read(folder: Path) -> None:
    for data, message in ((b"{broken", "a json that cannot be read"), (b"[1]", "not an object but list")):
        source = other_tar(folder / "z.tar", ("z.txt", b"words"), ("z.json", data))
        with pytest.raises(ShardError, match=message):
            source[0]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "No sample to write"),
        ([Sample("a", b"1", None, "x")] * 2, "'a' is there twice"),
        ([Sample("a.b", b"1", None, "x")], "webdataset ends a key at its first dot"),
        ([Sample("a", b"", None, "")], "neither a photograph nor a caption"),
    ],
)
def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path, bad: list[Sample], message: str) -> None:
    with pytest.raises(ShardError, match=message):
        write_shard(tmp_path / "x.tar", bad)
    assert list(tmp_path.iterdir()) == []


def test_an_exchanged_shard_of_the_same_length(folder: Path) -> None:
    shard = folder / "a-000001.tar"
    length = shard.stat().st_size
    write_shard(shard.with_name("other.tar"), samples(3, start=20))
    shard.write_bytes(shard.with_name("other.tar").read_bytes().ljust(length, b"\0")[:length])
    source = ShardSource(shard)
    with pytest.raises(ShardError, match="is not the tar its index was made for: sample 's0007' does not lie where .* delete"):
        source[0]


def test_a_shard_that_goes_away(folder: Path) -> None:
    source = ShardSource(folder)
    (folder / "a-000001.tar").unlink()
    with pytest.raises(ShardError, match="There is no shard .*a-000001.tar any more"):
        source[8]


def test_no_shard_keeps_a_file_open(folder: Path) -> None:
    import psutil

    before = psutil.Process().num_fds()
    sources = [ShardSource(folder) for _ in range(20)]
    assert sum(len(source[3].image) for source in sources) == 20 * len(samples(4)[3].image)
    assert psutil.Process().num_fds() == before
    assert len(pickle.dumps(ShardSource(folder))) < 3000  # worker processes get the way to the indexes, not the indexes


def test_sizes_of_photographs_by_the_indexes(tmp_path: Path) -> None:
    rows = [Sample("a", b"1", None, "x", {"size": [30, 40]}), Sample("b", b"1", None, "x")]
    for path in (str(tmp_path / "a.tar"), "memory://sizes/a.tar"):
        write_shard(path, rows)
        assert ShardSource(path).sizes().tolist() == [[30, 40], [0, 0]]


def other_tar(path: Path, *members: tuple[str, bytes]) -> ShardSource:
    """A tar as other people write it."""
    import io

    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return ShardSource(path)


def test_other_peoples_tars(tmp_path: Path) -> None:
    """Without faces, with masks beside photographs, members in any order, names that are not ASCII, and other files."""
    source = other_tar(
        tmp_path / "o.tar",
        ("data/é1.jpg", b"photograph"),
        ("data/é2.JPEG", b"second"),
        ("data/é1.mask.png", b"mask"),
        ("data/é1.png", b"depth"),
        ("data/é1.txt", b"one"),
        ("data/é2.txt", b"two"),
        ("data/é2.cls", b"7"),
        ("README.md", b"about"),
    )
    assert [(row.key, row.image, row.face, row.caption) for row in (source[0], source[1])] == [
        ("data/é1", b"photograph", None, "one"),
        ("data/é2", b"second", None, "two"),
    ]
    assert len(source) == 2 and source.missing("face") == 2


def test_two_samples_of_one_key_stay_two(tmp_path: Path) -> None:
    source = other_tar(
        tmp_path / "o.tar",
        ("a.jpg", b"1"),
        ("a.txt", b"one"),
        ("b.jpg", b"2"),
        ("b.txt", b"b"),
        ("a.jpg", b"3"),
        ("a.txt", b"two"),
    )
    assert [(row.key, row.image, row.caption) for row in map(source.__getitem__, range(3))] == [
        ("a", b"1", "one"),
        ("b", b"2", "b"),
        ("a", b"3", "two"),
    ]


def test_a_caption_that_is_no_utf8(tmp_path: Path) -> None:
    source = other_tar(tmp_path / "o.tar", ("a.jpg", b"1"), ("a.txt", "café".encode("latin-1")))
    with pytest.raises(
        ShardError, match="'a' of .*o.tar has a caption that is not UTF-8 .*Save it as UTF-8, or run train.prepare"
    ):
        source[0]
