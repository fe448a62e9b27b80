"""The files that `fuzz.py` changes: one small file of each kind that is
read from outside, and the product's reader of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image


@dataclass(frozen=True)
class Kind:
    """A kind of file: how one is made, and what reads it. `read` raises one of `errors` for what it refuses."""

    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    errors: tuple[type[BaseException], ...]


def _picture(kind: str, mode: str = "RGB", **options) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        y, x = np.mgrid[0:96, 0:128]
        pixels = np.stack([x * 2, y * 2, (x + y) % 256], axis=-1).astype(np.uint8)
        tag = Image.Exif()
        tag[0x112] = 6
        picture = Image.fromarray(pixels)
        picture = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else picture.convert(mode)
        path = folder / f"photo.{kind.lower()}"
        picture.save(path, kind, **({"exif": tag} if kind in ("JPEG", "PNG", "WEBP") else {}), **options)
        return path

    return make


def _weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {f"layer.{i}.weight": torch.randn(4, 6) for i in range(4)} | {"scale": torch.tensor(2.5), "count": torch.arange(5)}


def _tensors(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        from faceclip.tensor_file import write_safetensors

        path = folder / name
        if name.endswith(".safetensors"):
            write_safetensors(path, _weights(), {"format": "pt"})
        else:
            torch.save({"state_dict": _weights(), "step": 3}, path, _use_new_zipfile_serialization=name == "zip.pt")
        return path

    return make


def _identity(folder: Path) -> Path:
    from faceclip import Identity

    person = Identity(torch.randn(1, 1, 16), torch.randn(1, 1, 9, 8), torch.tensor([True]), torch.randn(1, 8))
    person.save(folder / "person.safetensors")
    return folder / "person.safetensors"


def _shard(folder: Path) -> Path:
    from train.data.shards import Sample, write_shard

    photo = _picture("JPEG")(folder).read_bytes()
    write_shard(folder / "s.tar", [Sample(f"k{i}", photo, None, "a man on a beach", {"identity": i}) for i in range(3)])
    return folder / "s.tar"


def _samples(path: Path) -> object:
    from train.data.shards import ShardSource

    source = ShardSource(path)
    return [(source[row], source[row].identity, source.key(row)) for row in range(len(source))]


def _unindexed(folder: Path) -> Path:
    path = _shard(folder)
    Path(f"{path}.index").unlink()
    return path


def _parts(folder: Path) -> Path:
    """The index of a model in two files."""
    from faceclip.tensor_file import write_safetensors

    places = {}
    for number, names in enumerate((("a", "b"), ("c",)), 1):
        places |= dict.fromkeys(names, f"model-{number:05}-of-00002.safetensors")
        write_safetensors(folder / places[names[0]], {name: torch.randn(4, 6) for name in names}, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 288}, "weight_map": places}))
    return folder / "model.safetensors.index.json"


def _features(file: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        from train.cache.features import cache_features
        from train.data.shards import ShardSource

        def extract(batch) -> dict[str, torch.Tensor]:
            return {"clip_image": torch.ones(len(batch["index"]), 8), "clip_text": torch.ones(len(batch["index"]), 8)}

        made_by = {"teacher": "mini", "signature": [[0.5] * 64]}
        source = ShardSource(_shard(folder))
        cache_features(source, folder / "cache", extract, _nothing, made_by, dtypes={}, batch_size=2, threads=1)
        return folder / "cache" / file

    return make


def _nothing(sample, random) -> dict[str, object]:
    return {}


def _read_features(path: Path) -> object:
    from train.cache.features import FeatureCache
    from train.data.shards import ShardSource

    cache = FeatureCache(path.parent, ShardSource(path.parents[1] / "s.tar"))
    return cache.signature, cache.read(torch.arange(len(cache)))


def _latents(file: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        from train.cache.latents import cache_latents
        from train.data.shards import ShardSource

        def encode(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            mean = torch.nn.functional.avg_pool2d(pixels, 8)
            return mean, torch.ones_like(mean)

        made_by = {"vae": "mean", "scaling_factor": 0.5}
        cache_latents(ShardSource(_shard(folder)), folder / "cache", encode, [(64, 64), (96, 64)], made_by, threads=1)
        found = sorted((folder / "cache").glob(file))
        return found[0]

    return make


def _read_latents(path: Path) -> object:
    from train.cache.latents import LatentCache
    from train.data.shards import ShardSource

    cache = LatentCache(path.parent, ShardSource(path.parents[1] / "s.tar"))
    return [(cache.framing(row), cache.read(torch.tensor([row]))) for row in range(len(cache))]


def _checkpoint(folder: Path) -> Path:
    from train.run.checkpointing import Checkpoints
    from train.run.ranks import Ranks

    run = Checkpoints(folder / "run", Ranks(0, 1, torch.device("cpu")), 1)
    run.save(1, {"model.w": torch.randn(64)}, {"config": {"steps": 1}})
    return run.path(1) / ".metadata"


def _resumed(path: Path) -> object:
    from train.run.checkpointing import Checkpoints
    from train.run.ranks import Ranks

    run = Checkpoints(path.parents[1], Ranks(0, 1, torch.device("cpu")), 1)
    found = run.latest()
    return found and (found[1]["config"], run.saved(found[0])["model.w"])


def _text(name: str, text: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_text(text, encoding="utf-8")
        return folder / name

    return make


def _parquet(folder: Path) -> Path:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"path": [f"p{i}.jpg" for i in range(50)], "caption": [f"caption {i}" for i in range(50)]})
    pyarrow.parquet.write_table(table, folder / "t.parquet")
    return folder / "t.parquet"


def _records(path: Path) -> object:
    from train.prepare.sources import Columns, find_units

    return [record for unit in find_units(str(path), 100, Columns()) for record in unit.records()]


def _configuration(path: Path) -> object:
    from train.pretrain.config import PretrainConfig
    from train.run.command_line import read_yaml

    return read_yaml(str(path), PretrainConfig)


def kinds() -> dict[str, Kind]:
    """Every kind, by the name that the table gives it."""
    from faceclip import Identity
    from faceclip.face import FaceError, load_photo
    from faceclip.tensor_file import CheckpointError, open_tensor_file
    from train.cache.row_store import CacheError
    from train.data.shards import ShardError
    from train.evaluate.protocol import ProtocolError
    from train.prepare.sources import SourceError
    from train.run.checkpointing import ResumeError
    from train.run.config import ConfigError
    from train.study.votes import read_votes

    def tensors(path: Path) -> object:
        return {name: (entry.read(), entry.mapped().sum()) for name, entry in open_tensor_file(path).entries.items()}

    rows = "".join(f"p{i}.jpg,a caption of {i}\n" for i in range(30))
    votes = "time,voter,pair,question,left,choice,study\n" + "".join(f"t,ann,{i},quality,A,B,\n" for i in range(20))
    photos = {
        "jpeg": _picture("JPEG"),
        "jpeg, progressive": _picture("JPEG", progressive=True),
        "png": _picture("PNG"),
        "png, 16-bit grey": _picture("PNG", "I;16"),
        "webp": _picture("WEBP"),
        "tiff": _picture("TIFF", compression="tiff_lzw"),
        "gif": _picture("GIF", "P"),
        "bmp": _picture("BMP"),
        "avif": _picture("AVIF"),
        "jpeg 2000": _picture("JPEG2000"),
    }
    files = {
        "safetensors": Kind(_tensors("weights.safetensors"), tensors, (CheckpointError,)),
        "pt (zip)": Kind(_tensors("zip.pt"), tensors, (CheckpointError,)),
        "pt (old)": Kind(_tensors("old.pt"), tensors, (CheckpointError,)),
        ".index.json": Kind(_parts, tensors, (CheckpointError,)),
        "identity": Kind(_identity, Identity.load, (CheckpointError,)),
        "shard": Kind(_unindexed, _samples, (ShardError,)),
        "shard with its index": Kind(_shard, _samples, (ShardError,)),
        "index": Kind(lambda folder: Path(f"{_shard(folder)}.index"), lambda p: _samples(p.with_suffix("")), (ShardError,)),
        "feature cache, cache.json": Kind(_features("cache.json"), _read_features, (CacheError,)),
        "feature cache, array": Kind(_features("clip_image.npy"), _read_features, (CacheError,)),
        "latent cache, cache.json": Kind(_latents("cache.json"), _read_latents, (CacheError,)),
        "latent cache, places": Kind(_latents("places.npy"), _read_latents, (CacheError,)),
        "latent cache, array": Kind(_latents("*x*.npy"), _read_latents, (CacheError,)),
        "checkpoint": Kind(_checkpoint, _resumed, (ResumeError,)),
        "yaml": Kind(_text("c.yaml", "steps: 10\nlr: 2e-5\nbetas: [0.9, 0.95]\nout: run\n"), _configuration, (ConfigError,)),
        "csv": Kind(_text("t.csv", "path,caption\n" + rows), _records, (SourceError,)),
        "tsv": Kind(_text("t.tsv", "path\tcaption\n" + rows.replace(",", "\t")), _records, (SourceError,)),
        "parquet": Kind(_parquet, _records, (SourceError,)),
        "votes": Kind(_text("votes.csv", votes), read_votes, (ProtocolError,)),
    }
    return {name: Kind(make, load_photo, (FaceError,)) for name, make in photos.items()} | files
