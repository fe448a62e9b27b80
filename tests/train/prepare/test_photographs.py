"""Picture files of every kind: which pixels a shard gets, and that it gets nothing else."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from train.data.decode import decode
from train.data.shards import Sample, ShardSource, write_shard
from train.prepare.command import prepare
from train.prepare.filters import DroppedError, Filters, Preparer
from train.prepare.photographs import read_photo, to_jpeg, without_metadata
from train.prepare.sources import Record
from train.prepare.unit import DetectorChoice, Options

PLACE = b"51 deg 28' 38 N"
CAPTION = "an astronaut in an orange suit"


@pytest.fixture(scope="module")
def portrait(astronaut: np.ndarray) -> Image.Image:
    return Image.fromarray(astronaut[:300, 80:380])


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def exif_with_place() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8825)[0x1B] = PLACE
    return exif


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_is_stored_without_metadata_and_with_the_same_pixels(portrait: Image.Image, progressive: bool) -> None:
    xmp = b"<x:xmpmeta><exif:GPSLatitude>51</exif:GPSLatitude></x:xmpmeta>"
    data = encoded(
        portrait,
        "JPEG",
        quality=90,
        exif=exif_with_place(),
        xmp=xmp,
        comment=b"taken at home",
        progressive=progressive,
        restart_marker_rows=1,
    )
    data += b"motion photo GPS"  # as cameras append films, and MPO its second picture
    assert PLACE in data and opened(data).getexif().get_ifd(0x8825)
    stored, pixels = read_photo(data, "k")
    for left in (PLACE, b"GPS", b"Camera", b"taken at home"):
        assert left not in stored
    assert not opened(stored).getexif() and "comment" not in opened(stored).info and "xmp" not in opened(stored).info
    np.testing.assert_array_equal(np.asarray(opened(stored)), np.asarray(opened(data)))
    np.testing.assert_array_equal(np.asarray(opened(stored)), pixels)


def test_other_formats_are_stored_without_metadata(portrait: Image.Image) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Location", PLACE.decode())
    for data in (
        encoded(portrait, "PNG", pnginfo=text, exif=exif_with_place()),
        encoded(portrait, "WEBP", exif=exif_with_place(), lossless=True),
    ):
        assert PLACE in data
        stored, _ = read_photo(data, "k")
        assert PLACE not in stored and not opened(stored).getexif()
        assert np.abs(np.asarray(opened(stored), float) - np.asarray(portrait, float)).mean() < 2


def test_prepared_shards_hold_no_place(portrait: Image.Image, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for orientation in (1, 3):
        exif = exif_with_place()
        exif[0x0112] = orientation
        upright = portrait if orientation == 1 else portrait.transpose(Image.Transpose.ROTATE_180)
        upright.save(tmp_path / "in" / f"{orientation}.jpg", exif=exif, quality=92)
        (tmp_path / "in" / f"{orientation}.txt").write_text(CAPTION)
    report = prepare(str(tmp_path / "in"), str(tmp_path / "out"), Options(face_detector=DetectorChoice("dlib")))
    assert report.kept == 2
    assert PLACE not in (tmp_path / "out" / "shard-000000.tar").read_bytes()


def gamma_profile(gamma: float) -> bytes:
    """A matrix profile with sRGB's primaries and another tone curve: made
    from littleCMS's sRGB by its three TRC tags."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for n in range(int.from_bytes(data[128:132], "big")):
        entry = 132 + 12 * n
        if data[entry : entry + 4] in (b"rTRC", b"gTRC", b"bTRC"):
            place = int.from_bytes(data[entry + 4 : entry + 8], "big")
            data[place : place + 14] = b"curv" + bytes(4) + (1).to_bytes(4, "big") + round(gamma * 256).to_bytes(2, "big")
            data[entry + 8 : entry + 12] = (14).to_bytes(4, "big")
    return bytes(data)


def test_colours_of_another_profile_become_srgb(portrait: Image.Image) -> None:
    profile = gamma_profile(1.0)  # light itself: a value of 128 is half the light, which sRGB writes as 188
    for kind, options in (("JPEG", {"quality": 95, "subsampling": 0}), ("PNG", {})):
        grey = encoded(Image.new("RGB", (32, 32), (128, 128, 128)), kind, icc_profile=profile, **options)
        stored, pixels = read_photo(grey, "k")
        assert abs(int(pixels[5, 5, 0]) - 188) <= 1 and abs(int(np.asarray(opened(stored))[5, 5, 1]) - 188) <= 2
        assert "icc_profile" not in opened(stored).info
    standard = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encoded(portrait, "JPEG", quality=90, icc_profile=standard)
    stored, _ = read_photo(data, "k")
    assert stored == without_metadata(data) and "icc_profile" not in opened(stored).info
    broken, _ = read_photo(encoded(portrait, "JPEG", quality=90, icc_profile=b"no profile at all"), "k")
    np.testing.assert_array_equal(np.asarray(opened(broken)), np.asarray(opened(data)))


def test_odd_colour_modes_look_as_they_should(portrait: Image.Image) -> None:
    want = np.asarray(portrait, float)
    grey = np.asarray(portrait.convert("L"))
    deep = np.asarray(grey, np.uint16) * 257
    clear = portrait.convert("RGBA")
    clear.putalpha(0)
    for data, expected in (
        (encoded(portrait.convert("CMYK"), "JPEG", quality=95), want),
        (encoded(portrait.convert("CMYK"), "TIFF"), want),
        (encoded(portrait.convert("P", palette=Image.Palette.ADAPTIVE), "GIF"), want),
        (encoded(Image.fromarray(deep), "PNG"), np.repeat(grey[..., None], 3, 2).astype(float)),
        (rgb48(np.asarray(portrait)), want),
        (encoded(clear, "PNG"), np.full_like(want, 255)),
    ):
        stored, pixels = read_photo(data, "k")
        assert opened(stored).format == "JPEG" and opened(stored).mode == "RGB"
        assert np.abs(pixels.astype(float) - expected).mean() < 6
        assert np.abs(np.asarray(opened(stored), float) - expected).mean() < 7


def rgb48(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits per colour, which Pillow reads and does not write."""
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in (pixels.astype(np.uint16) * 257).astype(">u2"))
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def dropped(data: bytes) -> DroppedError:
    with pytest.raises(DroppedError) as caught:
        Preparer(Filters(faces=False), None)(Record("k", data, CAPTION))
    return caught.value


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_films_are_left_out(portrait: Image.Image, kind: str) -> None:
    data = encoded(portrait, kind, save_all=True, append_images=[portrait.rotate(90), portrait.rotate(180)], duration=80)
    error = dropped(data)
    assert error.reason == "animated picture" and error.detail == "k has 3 frames"


def test_a_multi_picture_jpeg_and_a_tiff_of_two_pages_are_photographs(portrait: Image.Image) -> None:
    for kind in ("MPO", "TIFF"):
        data = encoded(portrait, kind, save_all=True, append_images=[portrait.rotate(90)])
        assert getattr(opened(data), "n_frames", 1) == 2
        stored, pixels = read_photo(data, "k")
        assert opened(stored).format == "JPEG" and np.abs(pixels.astype(float) - np.asarray(portrait)).mean() < 6


def bomb() -> bytes:
    """A PNG of a few bytes that claims 40,000 x 40,000 px."""
    data = bytearray(encoded(Image.new("L", (8, 8)), "PNG"))
    data[16:24] = (40000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b"", "is empty \\(0 bytes\\)"),
        (b"\xff\xd8\xff", "k is not an image that Pillow can read|damaged"),
        (b"plain text", "k is not an image that Pillow can read"),
        (bomb(), "The image k is too large to open safely .*exceeds limit .*Make it smaller"),
    ],
    ids=["empty", "stump", "text", "bomb"],
)
def test_broken_files_are_named(data: bytes, detail: str) -> None:
    import re

    error = dropped(data)
    assert error.reason == "broken photograph" and re.search(detail, error.detail), error.detail
    assert "/tmp" not in error.detail


def test_a_bomb_in_a_shard_is_told_as_any_bad_picture() -> None:
    with pytest.raises(ValueError, match="its photograph is not a picture, or is cut short .*exceeds limit"):
        decode(bomb(), "photograph")


def test_a_hundred_megapixels_are_no_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60 * 60)
    data = encoded(Image.new("RGB", (70, 70)), "JPEG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stored, pixels = read_photo(data, "k")
    assert stored and pixels.shape == (70, 70, 3)


def test_what_is_no_whole_jpeg_is_not_stored(portrait: Image.Image) -> None:
    data = to_jpeg(np.asarray(portrait))
    assert without_metadata(data[:-2]) == data  # some writers leave the end out
    for broken in (b"", b"GIF89a", data[:100], b"\xff\xd8rubbish"):
        with pytest.raises(ValueError, match="no JPEG|not begin like a JPEG"):
            without_metadata(broken)


def test_captions_and_names_that_are_no_utf8(portrait: Image.Image, tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    picture = to_jpeg(np.asarray(portrait))
    captions = {
        "latin": "café au lait".encode("latin-1"),
        "utf16": CAPTION.encode("utf-16"),
        "bom": b"\xef\xbb\xbf" + CAPTION.encode(),
    }
    for name, caption in captions.items():
        (root / f"{name}.jpg").write_bytes(picture)
        (root / f"{name}.txt").write_bytes(caption)
    Path(str(root) + "/caf\udce9.jpg").write_bytes(picture)  # a name in Latin-1
    Path(str(root) + "/caf\udce9.txt").write_text(CAPTION)
    (root / "table.csv").write_bytes(b"path,caption\nbom.jpg,an astronaut at rest\nbom.jpg,caf\xe9 au lait here\n")
    out = tmp_path / "out"
    prepare(str(root), str(out), Options(Filters(faces=False)))
    source = ShardSource(out)
    assert {source[row].key: source[row].caption for row in range(3)} == dict.fromkeys(("bom", "caf__udce9", "utf16"), CAPTION)
    lines = {line["key"]: line for line in map(json.loads, (out / "dropped.jsonl").read_text().splitlines())}
    assert set(lines) == {"latin"} and {line["reason"] for line in lines.values()} == {"broken record"}
    assert "latin.jpg cannot be read ('utf-8' codec can't decode byte 0xe9" in lines["latin"]["detail"]
    prepare(str(root / "table.csv"), str(tmp_path / "table"), Options(Filters(faces=False)))
    (line,) = (tmp_path / "table" / "dropped.jsonl").read_text().splitlines()
    assert json.loads(line)["detail"] == "the caption of row 1 is not UTF-8: save the table as UTF-8"


def test_a_shard_is_read_back_by_the_pixels_it_was_given(portrait: Image.Image, tmp_path: Path) -> None:
    stored, pixels = read_photo(encoded(portrait, "JPEG", exif=exif_with_place()), "k")
    write_shard(tmp_path / "a.tar", [Sample("k", stored, None, CAPTION)])
    np.testing.assert_array_equal(np.asarray(decode(ShardSource(tmp_path)[0].image, "")), pixels)
