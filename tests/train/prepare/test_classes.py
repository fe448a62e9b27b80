"""What a picture shows, by the source's word for it, reaches the shards."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pyarrow.parquet as parquet
from PIL import Image

from train.data.shards import ShardSource
from train.prepare.command import prepare
from train.prepare.filters import Filters
from train.prepare.sources import Columns
from train.prepare.unit import Options

CAPTION = "rings of light and shade"


def test_classes_come_from_columns_and_json_and_nothing_else_does(tmp_path: Path) -> None:
    """With them, zero-shot classification can be measured on prepared shards."""
    picture = Image.radial_gradient("L").resize((300, 300))
    (tmp_path / "folder").mkdir()
    for name in ("a", "b"):
        picture.save(tmp_path / "folder" / f"{name}.jpg")
        (tmp_path / "folder" / f"{name}.txt").write_text(CAPTION)
    (tmp_path / "folder" / "a.json").write_text('{"class": "ripple", "gps": [1, 2]}')
    folder = str(tmp_path / "folder")
    (tmp_path / "t.csv").write_text(f"path,caption,kind\n{folder}/a.jpg,{CAPTION},ripple\n{folder}/b.jpg,{CAPTION},\n")
    rows = [{"path": f"{folder}/{name}.jpg", "caption": CAPTION, "class": word} for name, word in (("a", "ripple"), ("b", None))]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    pairs = Filters(faces=False)
    sources = {
        "folder": Options(filters=pairs),
        "t.csv": Options(filters=pairs, columns=Columns(class_column="kind")),
        "t.parquet": Options(filters=pairs),
        "shards of folder": Options(filters=pairs),  # its tars
    }
    for name, options in sources.items():
        prepare(str(tmp_path / name), str(tmp_path / f"shards of {name}"), options)
        source = ShardSource(tmp_path / f"shards of {name}")
        assert [source[row].meta for row in range(2)] == [{"size": [300, 300], "class": "ripple"}, {"size": [300, 300]}], name
