"""Caches of frozen features: equal to computing live, resumable, and never met with other data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from faceclip import FaceCLIPConfig, FaceCLIPEncoder
from train.cache.command import main
from train.cache.features import FeatureCache, JoinedFeatures, cache_features, share_faces
from train.cache.latents import LatentCache
from train.cache.row_store import CacheError
from train.data.captions import token_ids
from train.data.decode import clip_crop, decode, decode_face
from train.data.shards import Sample, ShardSource, write_shard
from train.frozen.faces import identity_of_faces, text_embedding
from train.frozen.teacher import load_teacher
from train.frozen.towers import new_encoder
from train.pretrain.config import PretrainConfig

from .pictures import samples


def command(shards: Path, out: Path, *more: str) -> int:
    flags = ("--teacher", "mini", "--size", "mini", "--batch-size", "4", "--threads", "2")
    return main(["pretrain", "--data", str(shards), "--out", str(out), *flags, *more])


@pytest.fixture(scope="module")
def features(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("features") / "cache"
    assert command(shards, out, "--captions", "--patch-dtype", "float32") == 0
    return out


def mini_encoder(shards: Path) -> FaceCLIPEncoder:
    config = PretrainConfig(out=shards, steps=1, batch_size=1, data=str(shards), size="mini", teacher="mini")
    return new_encoder(config).eval()


def test_cached_features_are_those_of_the_towers(shards: Path, source: ShardSource, features: Path) -> None:
    cache = FeatureCache(features, source)
    encoder, teacher = mini_encoder(shards), load_teacher("mini", "", 32)
    rows = torch.tensor([10, 0, 7])
    read = cache.read(rows)
    some = [source[int(row)] for row in rows]
    faces = torch.from_numpy(np.stack([decode_face(sample.face) for sample in some]))
    identity = identity_of_faces(encoder, faces, torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(read["class_token"], identity.class_token, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(read["patch_tokens"], identity.patch_tokens, rtol=1e-5, atol=1e-5)
    text = text_embedding(encoder.branches["l"], token_ids([sample.caption for sample in some], [False] * len(some)))
    torch.testing.assert_close(read["clip_text"], text, rtol=1e-5, atol=1e-5)
    pictures = torch.stack([torch.from_numpy(clip_crop(decode(sample.image, "it"), teacher.size)) for sample in some])
    torch.testing.assert_close(read["clip_image"], teacher(pictures), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cache.signature, encoder.signature(), rtol=0, atol=0)
    assert len(cache) == 11 and cache.shapes["patch_tokens"] == (1, 144, 64)


def test_patch_tokens_are_stored_in_half_precision_unless_told_otherwise(shards: Path, source, features, tmp_path: Path) -> None:
    assert command(shards, tmp_path / "half") == 0
    half, full = FeatureCache(tmp_path / "half", source), FeatureCache(features, source)
    rows = torch.arange(11)
    assert half.read(rows)["patch_tokens"].dtype == torch.float16
    torch.testing.assert_close(half.read(rows)["patch_tokens"].float(), full.read(rows)["patch_tokens"], rtol=1e-3, atol=1e-3)
    assert set(half.shapes) == {"clip_image", "class_token", "patch_tokens"}


def test_features_of_a_finished_encoder_for_finetuning(shards: Path, source: ShardSource, tmp_path: Path) -> None:
    encoder = FaceCLIPEncoder(FaceCLIPConfig.preset("mini")).eval()
    encoder.save(tmp_path / "encoder.safetensors")
    flags = ["--encoder", str(tmp_path / "encoder.safetensors"), "--patch-dtype", "float32"]
    assert main(["pretrain", "--data", str(shards), "--out", str(tmp_path / "cache"), *flags]) == 0
    cache = FeatureCache(tmp_path / "cache", source)
    faces = torch.from_numpy(decode_face(source[4].face)).unsqueeze(0)
    expected = encoder.encode_faces(faces)
    read = cache.read(torch.tensor([4]))
    torch.testing.assert_close(read["patch_tokens"], expected.patch_tokens, rtol=1e-5, atol=1e-5)
    assert set(read) == {"class_token", "patch_tokens"}


def test_guided_rows_follow_the_main_ones(shards: Path, source: ShardSource, features: Path, tmp_path: Path) -> None:
    write_shard(tmp_path / "g" / "g.tar", samples(4, start=50, faces=False))
    assert command(tmp_path / "g", tmp_path / "cache", "--no-faces") == 0
    guided = FeatureCache(tmp_path / "cache", ShardSource(tmp_path / "g"))
    assert set(guided.shapes) == {"clip_image"}
    both = JoinedFeatures(FeatureCache(features, source), guided).read(torch.tensor([3, 11, 14, 0]))
    assert torch.equal(both["clip_image"][1:3], guided.read(torch.tensor([0, 3]))["clip_image"])
    alone = FeatureCache(features, source).read(torch.tensor([3, 0]))
    for name, values in alone.items():
        assert torch.equal(both[name][[0, 3]], values)
    assert not both["class_token"][1:3].any() and not both["patch_tokens"][1:3].any()
    with pytest.raises(CacheError, match="guided rows, but their features were not cached"):
        JoinedFeatures(FeatureCache(features, source)).read(torch.tensor([3, 11]))


class InterruptedByTestError(Exception):
    pass


def counting(calls: list[int], fail_after: int = 10**9):
    """A cheap `extract` that counts the rows it sees, and breaks off after some."""

    def extract(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        if len(calls) >= fail_after:
            raise InterruptedByTestError
        calls.extend(batch["index"].tolist())
        return {"row": batch["index"].float().unsqueeze(1) * 2 + 1}

    return extract


def light(sample: Sample, random: np.random.Generator) -> dict[str, Any]:
    return {"caption": sample.caption}


def fill(source: ShardSource, path: Path, extract: Any, **options: Any) -> None:
    cache_features(source, path, extract, light, {"tower": options.pop("tower", "x")}, dtypes={}, batch_size=2, **options)


def test_an_interrupted_cache_goes_on_where_it_stopped(source: ShardSource, tmp_path: Path) -> None:
    first: list[int] = []
    with pytest.raises(InterruptedByTestError):
        fill(source, tmp_path / "c", counting(first, fail_after=7))
    with pytest.raises(CacheError, match="is not finished: 6 of 11 rows are there. Run the command .* again"):
        FeatureCache(tmp_path / "c", source)
    second: list[int] = []
    fill(source, tmp_path / "c", counting(second))
    assert second[1:] == list(range(6, 11))  # after the probe of row 0
    third: list[int] = []
    fill(source, tmp_path / "c", counting(third))
    assert third == [0]
    assert FeatureCache(tmp_path / "c", source).read(torch.arange(11))["row"].flatten().tolist() == [2 * n + 1 for n in range(11)]


def test_processes_share_the_rows(source: ShardSource, tmp_path: Path) -> None:
    shares: list[list[int]] = []
    for part in range(3):
        shares.append([])
        fill(source, tmp_path / "c", counting(shares[-1]), part=(part, 3))
    assert [share[1:] for share in shares] == [[0, 1, 2], [3, 4, 5, 6], [7, 8, 9, 10]]
    assert FeatureCache(tmp_path / "c", source).read(torch.tensor([10]))["row"].item() == 21


def test_a_cache_never_meets_other_shards_or_towers(source: ShardSource, shards: Path, tmp_path: Path) -> None:
    fill(source, tmp_path / "c", counting([]))
    with pytest.raises(CacheError, match="was made from other shards \\(11 samples; yours hold 6\\)"):
        FeatureCache(tmp_path / "c", ShardSource(shards / "a.tar"))
    with pytest.raises(CacheError, match="made from other shards"):
        FeatureCache(tmp_path / "c", ShardSource([shards / "b.tar", shards / "a.tar"]))
    with pytest.raises(CacheError, match=r"holds a cache made with other \w+ \(x, now y\)"):
        fill(source, tmp_path / "c", counting([]), tower="y")
    with pytest.raises(CacheError, match="is a cache of features, where one of latents is expected"):
        LatentCache(tmp_path / "c", source)
    cache = FeatureCache(tmp_path / "c", source)
    cache.require("row", (1,))
    with pytest.raises(CacheError, match="has no clip_image of shape \\[768\\]. It holds: row \\[1\\]"):
        cache.require("clip_image", (768,))


def test_damaged_and_missing_caches(source: ShardSource, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="There is no cache at .*python -m train.cache"):
        FeatureCache(tmp_path / "nothing", source)
    fill(source, tmp_path / "c", counting([]))
    (tmp_path / "c" / "row.npy").write_bytes(b"")
    with pytest.raises(CacheError, match="is damaged: row.npy cannot be read"):
        FeatureCache(tmp_path / "c", source)
    np.save(tmp_path / "c" / "row.npy", np.zeros((4, 1), np.float32))
    with pytest.raises(CacheError, match="row.npy is float32 \\[4, 1\\], its description says float32 \\[11, 1\\]"):
        FeatureCache(tmp_path / "c", source)
    np.savez(tmp_path / "several.npz", a=np.zeros(3))
    shutil.copy(tmp_path / "several.npz", tmp_path / "c" / "row.npy")
    with pytest.raises(CacheError, match="row.npy is several arrays"):
        FeatureCache(tmp_path / "c", source)
    (tmp_path / "c" / "cache.json").write_text("{")
    with pytest.raises(CacheError, match="its cache.json cannot be read"):
        FeatureCache(tmp_path / "c", source)


@pytest.mark.parametrize(
    "change",
    [
        {"columns": {"../row": [[11, 1], "float32"]}},
        {"columns": {"row": [[11, 1], "object"]}},
        {"columns": {"row": [[11, -1], "float32"]}},
        {"columns": {"row": [[2**60], "float32"]}},
        {"columns": ["row"]},
        {"rows": True},
        {"made_by": "mini"},
        {"made_by": {"signature": "abc"}},
        {"made_by": {"signature": [[1.0], [1.0, 2.0]]}},
    ],
    ids=str,
)
def test_a_description_is_believed_within_bounds(change: dict[str, Any], source: ShardSource, tmp_path: Path) -> None:
    fill(source, tmp_path / "c", counting([]))
    FeatureCache(tmp_path / "c", source)
    description = tmp_path / "c" / "cache.json"
    description.write_text(json.dumps({**json.loads(description.read_text()), **change}))
    with pytest.raises(CacheError, match=r"The cache .* is damaged: .*Delete the folder and make it again"):
        FeatureCache(tmp_path / "c", source)


def test_a_full_disk_is_told_before_the_work(source: ShardSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(CacheError, match="row.npy cannot be made .*No space left.* needs 0.00 GB, .* GB are free"):
        fill(source, tmp_path / "c", counting([]))
    assert not list((tmp_path / "c").glob("*"))


def test_a_feature_that_is_not_finite_is_named(source: ShardSource, tmp_path: Path) -> None:
    def broken(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        return {"row": torch.where(batch["index"] == 5, torch.nan, 1.0).unsqueeze(1)}

    with pytest.raises(CacheError, match="The row of sample 'k005' is not finite"):
        fill(source, tmp_path / "c", broken)


def test_the_command_explains_what_it_cannot_do(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "--data", str(shards), "--out", str(tmp_path / "x"), "--no-faces"]) == 1
    assert "There is nothing to cache: name a --teacher" in capsys.readouterr().err
    flags = ["--encoder", "e.safetensors", "--teacher", "mini"]
    assert main(["pretrain", "--data", str(shards), "--out", str(tmp_path / "x"), *flags]) == 1
    assert "--encoder caches face features alone" in capsys.readouterr().err
    assert main(["latents", "--data", str(shards), "--out", str(tmp_path / "x"), "--vae", str(tmp_path)]) == 1
    assert "There is no VAE in" in capsys.readouterr().err
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    assert main(["latents", "--data", str(shards), "--out", str(tmp_path / "x"), "--vae", str(tmp_path)]) == 1
    assert "its config.json says UNet2DConditionModel, not AutoencoderKL" in capsys.readouterr().err
    shutil.copytree(shards, tmp_path / "cut")
    (tmp_path / "cut" / "b.tar").write_bytes(b"")
    assert command(tmp_path / "cut", tmp_path / "x") == 1
    assert "b.tar is empty (0 bytes)" in capsys.readouterr().err


def test_branches_share_the_features_of_their_face_tower(
    shards: Path, source: ShardSource, features: Path, tmp_path: Path
) -> None:
    assert command(shards, tmp_path / "g", "--captions", "--no-faces", "--branch", "g") == 0
    for _ in range(2):  # a second time there is nothing left to do
        share_faces(tmp_path / "g", features, source)
    shared, other = FeatureCache(tmp_path / "g", source), FeatureCache(features, source)
    rows = torch.arange(len(source))
    found, expected = shared.read(rows), other.read(rows)
    assert set(found) == {"clip_image", "clip_text", "class_token", "patch_tokens"}
    assert all(torch.equal(found[name], expected[name]) for name in ("class_token", "patch_tokens"))
    assert not torch.equal(found["clip_text"], expected["clip_text"])
    assert shared.signature is not None and torch.equal(shared.signature, other.signature)  # pyright: ignore


def test_faces_that_were_never_cached_are_not_shared(shards: Path, source: ShardSource, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert command(shards, tmp_path / name, "--captions", "--no-faces") == 0
    with pytest.raises(CacheError, match="no face features"):
        share_faces(tmp_path / "one", tmp_path / "two", source)
