"""Framing: buckets, crops, and conditions that tell the truth about the pixels."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from train.data.decode import decode
from train.data.framing import Framing, aspect_buckets, cover, cut, frame, frame_all, place
from train.data.shards import Sample, ShardError, ShardSource, write_shard


def test_buckets_have_about_the_area_and_both_orientations() -> None:
    buckets = aspect_buckets(1024)
    assert (1024, 1024) in buckets and (1152, 896) in buckets and (896, 1152) in buckets
    assert len(set(buckets)) == len(buckets)
    for height, width in buckets:
        assert height % 64 == width % 64 == 0
        assert 0.85 <= height * width / 1024**2 <= 1
        assert max(height / width, width / height) <= 2
        assert (width, height) in buckets
    assert aspect_buckets(64) == [(64, 64)]
    with pytest.raises(ValueError, match="The resolution is 1000; it must be a multiple of 64"):
        aspect_buckets(1000)


def test_a_photograph_goes_to_the_bucket_of_its_aspect() -> None:
    buckets = aspect_buckets(1024)
    assert frame((600, 600), buckets) == Framing((600, 600), (0, 0), (1024, 1024))
    assert frame((864, 1152), buckets).target == (896, 1152)
    tall = frame((3000, 1000), buckets)  # more upright than any bucket: the middle is shown
    assert tall.target == (1408, 704)
    assert tall.crop == ((2112 - 1408) // 2, 0)  # 704 px wide, it is 2,112 px high
    assert tall.condition == (3000, 1000, *tall.crop, 1408, 704)


@pytest.mark.parametrize("size", [(90, 200), (201, 77), (333, 333), (64, 64), (1, 7)])
def test_the_crop_shows_what_the_condition_says(size: tuple[int, int]) -> None:
    # A ramp down and a ramp across: each pixel of the crop tells where in the photograph it was.
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]]
    ramp = np.stack([rows / max(size[0] - 1, 1), columns / max(size[1] - 1, 1), 0 * rows], axis=-1)
    picture = Image.fromarray((ramp * 255).round().astype(np.uint8))
    framing = frame(size, aspect_buckets(128, step=32))
    pixels = cut(picture, framing)
    assert pixels.shape == (3, *framing.target) and pixels.dtype == np.uint8
    resized = cover(np.array([size]), np.array([framing.target]))[0]
    for axis in (0, 1):
        if size[axis] < 60:
            continue
        seen = pixels[axis].mean(axis=1 - axis) / 255
        place = (framing.crop[axis] + np.arange(framing.target[axis]) + 0.5) / resized[axis]
        assert np.abs(seen - place).max() < 0.02


def test_another_picture_than_the_framing_was_made_for() -> None:
    with pytest.raises(ValueError, match="its photograph is 30 x 20 px, its framing is for"):
        cut(Image.new("RGB", (30, 20)), frame((20, 31), aspect_buckets(64)))


def test_many_are_framed_as_one_is() -> None:
    sizes = np.random.default_rng(0).integers(1, 5000, (300, 2))
    buckets = aspect_buckets(512)
    conditions, numbers = frame_all(sizes, buckets)
    for size, condition, number in zip(sizes.tolist(), conditions.tolist(), numbers.tolist(), strict=True):
        framing = frame(tuple(size), buckets)
        assert list(framing.condition) == condition and framing.target == buckets[number]
        distances = [abs(np.log(height / width * size[1] / size[0])) for height, width in buckets]
        assert distances[number] <= min(distances) + 1e-12


def picture(kind: str, orientation: int = 1, **options: object) -> bytes:
    tag = Image.Exif()
    tag[0x112] = orientation
    buffer = io.BytesIO()
    Image.new("RGB", (96, 64), (200, 100, 50)).save(buffer, kind, exif=tag, **options)
    return buffer.getvalue()


def others(folder: Path, images: list[bytes]) -> ShardSource:
    """A shard whose index tells no sizes, as other programs write them."""
    write_shard(folder / "000.tar", [Sample(f"k{i}", image, None, "a man") for i, image in enumerate(images)])
    return ShardSource(str(folder))


def test_photographs_of_others_are_measured_as_they_are_read(tmp_path: Path) -> None:
    text = PngInfo()
    text.add_text("workflow", "x" * (80 << 20), zip=True)
    kinds = ("JPEG", "PNG", "WEBP", "TIFF")
    images = [picture(kind, turned) for kind in kinds for turned in (1, 3, 6, 8)] + [picture("PNG", pnginfo=text)]
    buckets = aspect_buckets(128, 32)
    source = others(tmp_path, images)
    for image, row in zip(images, place(source, buckets, 2).tolist(), strict=True):
        height, width, top, left, *target = row[2:]
        shown = cut(decode(image, "photograph"), Framing((height, width), (top, left), tuple(target)))
        assert list(shown.shape[1:]) == target


def test_a_photograph_that_cannot_be_measured_names_its_sample(tmp_path: Path) -> None:
    for image, told in ((b"GIF?" * 9, "'k1' .* not an image"), (b"%!PS-Adobe-3.0 EPSF-3.0\n" * 9, "'k1' .* PostScript")):
        source = others(tmp_path / told[-5:], [picture("JPEG"), image])
        with pytest.raises(ShardError, match=f"{told}.* take this sample out"):
            place(source, aspect_buckets(128, 32), 1)
