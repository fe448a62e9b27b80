"""Files that phones, cameras, tools and mischief leave: each is read as
a viewer reads it, or refused in one sentence."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from faceclip.face import FaceError, deep_grey, load_photo, photo
from faceclip.face.photo import read_photo, to_rgb, to_rgb8


def encoded(image: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(content: bytes) -> np.ndarray:
    return read_photo(content, "photo").pixels


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """A JPEG segment with these EXIF entries (tag, type, count, value)."""
    tags = b"".join(struct.pack(">HHI", *entry[:3]) + entry[3] for entry in entries)
    block = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, len(entries)) + tags + bytes(4)
    return b"\xff\xe1" + struct.pack(">H", 2 + len(block)) + block


TURNED = (0x112, 3, 1, b"\0\6\0\0")  # a quarter, as phones hold their sensor


@pytest.mark.parametrize(
    "odd",
    [
        (0x11B, 2, 4, b"abc\0"),
        (0x11A, 5, 1, b"\xff\xff\xff\xff"),
        (0x8769, 4, 1, b"\xff\xff\xff\xff"),
        (0x927C, 7, 2**31, b"\0\0\0\0"),
    ],
    ids=["text for a number", "outside the block", "a folder outside", "of 2 GB"],
)
def test_odd_metadata_beside_the_orientation_changes_nothing(astronaut, odd):
    data = encoded(astronaut, "JPEG", quality=95)
    found = pixels(data[:2] + exif(TURNED, odd) + data[2:])
    assert np.array_equal(found, np.rot90(pixels(data), -1))


@pytest.mark.parametrize("text", [2**21, 80 << 20])
@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_much_text_in_a_png_is_passed_over(astronaut, text, kind):
    data = encoded(astronaut, "PNG")
    packed = zlib.compress(bytes(text))
    body = b"workflow\0\0" + packed if kind == b"zTXt" else b"workflow\0\1\0\0\0" + packed
    assert np.array_equal(pixels(data[:33] + chunk(kind, body) + data[33:]), astronaut)


def test_a_png_with_damage_in_a_text_is_read(astronaut):
    data = encoded(astronaut, "PNG")
    broken = bytearray(chunk(b"tEXt", b"Comment\0hello"))
    broken[-1] ^= 0xFF
    assert np.array_equal(pixels(data[:33] + bytes(broken) + data[33:]), astronaut)


@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_lacks_only_its_end_is_read(astronaut, lost, progressive):
    data = encoded(astronaut, "JPEG", quality=95, progressive=progressive)
    assert np.array_equal(pixels(data[:-lost]), pixels(data))


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.995])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_lacks_pixels_is_refused(astronaut, kept, progressive):
    data = encoded(astronaut, "JPEG", quality=95, progressive=progressive)
    with pytest.raises(FaceError, match="photo is damaged or cut short"):
        pixels(data[: int(kept * len(data))])


def test_a_jpeg_with_padding_between_its_segments_is_read(astronaut):
    data = encoded(astronaut, "JPEG", quality=95)
    first = 4 + int.from_bytes(data[4:6], "big")
    assert np.array_equal(pixels(data[:first] + bytes(7) + data[first:]), pixels(data))


@pytest.mark.parametrize(
    ("kind", "top", "dtype"),
    [
        *(("TIFF", top, np.float32) for top in (1.0, 255, 65535)),
        *((kind, top, np.uint16) for kind in ("TIFF", "PNG") for top in (4095, 65535)),
    ],
)
def test_grey_of_any_range_keeps_its_brightness(kind, top, dtype):
    shades = np.linspace(0, 1, 256).reshape(16, 16)
    found = pixels(encoded((shades * top).astype(dtype), kind))
    assert np.abs(found[..., 0] - shades * 255).max() <= 1


def test_floats_of_no_known_range_and_no_numbers_are_refused():
    for values, told in ((5.0, "grey from 0 to 5, in none"), (np.nan, "not finite numbers"), (np.inf, "not finite numbers")):
        with pytest.raises(FaceError, match=told):
            pixels(encoded(np.full((8, 8), values, np.float32), "TIFF"))


@pytest.mark.parametrize(("low", "high", "dtype"), [(-1, 1, np.float32), (-0.5, 0.5, np.float32), (-9, -1, np.int32)])
def test_grey_of_which_half_would_be_black_is_refused(low, high, dtype):
    with pytest.raises(FaceError, match=f"grey from {low} to"):
        pixels(encoded(np.linspace(low, high, 64).reshape(8, 8).astype(dtype), "TIFF"))


def test_an_x_ray_whose_white_is_0_is_no_negative():
    shades = np.linspace(0, 1, 64).reshape(8, 8)
    black_is_0, white_is_0 = (struct.pack("<HHIHH", 0x106, 3, 1, kind, 0) for kind in (1, 0))
    data = encoded(((1 - shades) * 65535).astype(np.uint16), "TIFF")
    assert np.abs(pixels(data.replace(black_is_0, white_is_0))[..., 0] - shades * 255).max() <= 1


@pytest.mark.parametrize("start", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", b"%PDF-1.7\n"])
def test_a_program_that_draws_is_not_run(start, tmp_path, monkeypatch):
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "photo.jpg").write_bytes(start + b"showpage\n%%EOF\n")
    with pytest.raises(FaceError, match=r"photo\.jpg is a PostScript or PDF file"):
        load_photo(tmp_path / "photo.jpg")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC picture, as iPhones take them"),
        (b"<!doctype html><title>Not found</title>", "a web page or a drawing"),
        (b"dear diary", "not an image that Pillow can read"),
    ],
)
def test_what_is_no_photo_is_told_as_what_it_is(content, told):
    with pytest.raises(FaceError, match=f"photo is .*{told}|photo is {told}"):
        pixels(content)


def test_a_format_without_its_decoder_names_the_remedy(astronaut, monkeypatch):
    data = encoded(astronaut, "AVIF")
    monkeypatch.setattr(photo, "FORMATS", tuple(kind for kind in photo.FORMATS if kind != "AVIF"))
    with pytest.raises(FaceError, match="AVIF picture.*pip install --upgrade pillow"):
        pixels(data)


def test_of_a_film_the_first_picture_is_taken(astronaut):
    other = Image.new("RGB", (512, 512))
    for kind in ("GIF", "WEBP", "PNG"):
        found = read_photo(encoded(astronaut, kind, save_all=True, append_images=[other]), "film")
        assert found.frames == 2
        assert np.abs(found.pixels.astype(int) - astronaut).mean() < 12


def test_memory_is_bounded_before_anything_is_decoded(astronaut, monkeypatch):
    plain, layered = encoded(astronaut, "PNG"), encoded(astronaut, "JPEG", progressive=True)
    monkeypatch.setattr(photo, "LARGEST", 7 * 512 * 512)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # as other packs set it
    assert pixels(plain).shape == astronaut.shape
    for content in (layered, encoded(astronaut, "WEBP"), encoded(Image.new("L", (4096, 1024)), "PNG")):
        with pytest.raises(FaceError, match=r"photo is too large to open safely: \d+ x \d+ pixels take"):
            pixels(content)


def test_a_small_picture_in_a_huge_tile_is_refused_before_it_is_decoded():
    data = encoded(np.zeros((64, 64, 3), np.uint8), "TIFF")
    strip = struct.pack("<HHII", 0x116, 4, 1, 64), struct.pack("<HHIHH", 0x116, 3, 1, 64, 0)
    place = max(data.find(entry) for entry in strip)
    width, height = (struct.pack("<HHII", tag, 4, 1, 30_000) for tag in (0x142, 0x143))
    # Tags may stand in any order: rows per strip, and the one after it, become the tile's sides.
    with pytest.raises(FaceError, match=r"too large to open safely: 64 x 64 pixels take 6\.7 GiB"):
        pixels(data[:place] + width + height + data[place + 24 :])


def test_a_game_s_texture_with_any_jpeg_in_it_is_no_photo():
    with pytest.raises(FaceError, match="not an image that Pillow can read"):
        pixels(b"BLP1" + bytes(200))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_strips_end_where_a_whole_picture_does(orientation, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (37, 23, 3), dtype=np.uint8)
    tag = Image.Exif()
    tag[0x112] = orientation
    data = encoded(noise, "PNG", exif=tag)
    whole = pixels(data)
    monkeypatch.setattr(deep_grey, "_STRIP", 100)
    assert np.array_equal(pixels(data), whole)


def test_a_large_jpeg_may_come_back_smaller(astronaut):
    data = encoded(Image.fromarray(astronaut).resize((2048, 1024)), "JPEG")
    assert read_photo(data, "photo", least=256).pixels.shape == (256, 512, 3)


def test_images_of_no_numbers_are_refused():
    for value in (float("nan"), float("inf")):
        image = torch.full((4, 4, 3), 0.5)
        image[1, 1, 1] = value
        with pytest.raises(FaceError, match="NaN or infinity.*--fp32-vae"):
            to_rgb8(image)


def test_a_comfyui_image_becomes_rgb_between_0_and_1():
    assert to_rgb(torch.full((2, 2, 1), 1.03)).eq(1).all()
    assert to_rgb(torch.zeros(2, 2, 4)).eq(1).all()
    assert to_rgb(torch.full((2, 2, 3), 0.123, dtype=torch.float16)).dtype == torch.float32
