"""What a shard keeps of a picture file: upright sRGB pixels as a JPEG,
and nothing that tells where or by whom it was taken.

Colours: training reads pixels as sRGB, so a picture with another
    colour profile is converted and stored without it.
Metadata: EXIF (camera, place, time, preview), XMP, IPTC, comments,
    and whatever a camera appends are left out.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from faceclip.face.photo import read_photo as read_file

JPEG_QUALITY = 95
_JPEGS = ("JPEG", "MPO")  # an MPO is a JPEG with further ones behind it
# Segments of a JPEG that say how to read its pixels: JFIF (APP0) and Adobe's colour transform (APP14). The other APPn and the
# comment are metadata.
_METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}
_SCAN, _END = 0xDA, 0xD9
# The next marker after pixels: 0xFF not followed by a stuffed zero, a restart, or more filling.
_AFTER_SCAN = re.compile(rb"\xff+(?=[^\x00\xff\xd0-\xd7])")


class AnimatedError(ValueError):
    """A film, not a photograph."""


def read_photo(data: bytes, name: str) -> tuple[bytes, np.ndarray]:
    """A picture file as (the JPEG to store, its pixels uint8 [H, W, 3]).

    `name`, a path if it is one, stands for it in errors.

    Raises:
        AnimatedError: the file holds several frames.
        FaceError: the file is empty, cut short or no picture. Damaged files make decoders raise other errors, too.
    """
    photo = read_file(data, name, convert=_printers)
    if photo.frames > 1:
        raise AnimatedError(f"{name} has {photo.frames} frames")
    pixels = photo.pixels
    to_srgb = _to_srgb(photo.profile, "CMYK" if photo.mode == "CMYK" else "RGB") if photo.profile else None
    if to_srgb is not None and photo.mode != "CMYK":  # after transparency was laid over white
        pixels = np.array(ImageCms.applyTransform(Image.fromarray(pixels), to_srgb))
    elif to_srgb is None and photo.format in _JPEGS and photo.mode == "RGB" and photo.orientation == 1:
        # Stored as they are: compressing again would lose detail.
        try:
            return without_metadata(data), pixels
        except ValueError:  # a decoder reads it, this does not
            pass
    return to_jpeg(pixels), pixels


def _printers(picture: Image.Image) -> Callable[[Image.Image], Image.Image] | None:
    """Printers' colours become those of their profile, as they are."""
    profile = picture.info.get("icc_profile")
    to_srgb = _to_srgb(profile, "CMYK") if profile and picture.mode == "CMYK" else None
    return to_srgb and (lambda part: _rgb(ImageCms.applyTransform(part, to_srgb)))


def _rgb(picture: Image.Image | None) -> Image.Image:
    if picture is None:
        raise ValueError("its colour profile gives no picture")
    return picture


@functools.lru_cache(maxsize=64)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The way from a profile to sRGB.

    None where there is nothing to do: it is sRGB, of another kind than `mode`, or broken.
    """
    try:
        source: Any = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != mode:
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return None
    if mode != "RGB":
        return transform
    # Dozens of profiles are sRGB under other names: what counts is what they do to colours.
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    moved = np.array(ImageCms.applyTransform(Image.fromarray(colours), transform))
    return transform if np.abs(moved.astype(int) - colours).max() > 3 else None


def without_metadata(data: bytes) -> bytes:
    """A JPEG with the same pixels and nothing else: no EXIF, XMP, IPTC,
    colour profile, comment, nor bytes behind its end.

    Raises:
        ValueError: the bytes are no whole JPEG.
    """
    if data[:2] != b"\xff\xd8":
        raise ValueError("it does not begin like a JPEG")
    kept, place = [data[:2]], 2
    while place < len(data):
        start = data.find(b"\xff", place)  # what lies between segments is padding
        if start < 0:
            break
        place = start
        while data[place : place + 1] == b"\xff":
            place += 1
        if place >= len(data):
            break
        marker = data[place]
        if marker == _END:
            return b"".join([*kept, b"\xff\xd9"])
        end = place + 1 + int.from_bytes(data[place + 1 : place + 3], "big")
        if marker == _SCAN:
            after = _AFTER_SCAN.search(data, end)
            if after is None:
                # Some writers leave the end out; decoders read such files.
                return b"".join([*kept, data[start:], b"\xff\xd9"])
            end = after.start()
        preview = marker == 0xE0 and not data[place + 3 : end].startswith(b"JFIF")
        if marker not in _METADATA and not preview:
            kept.append(data[start:end])
        place = end
    raise ValueError("it is cut short, or no JPEG")


def to_jpeg(pixels: np.ndarray) -> bytes:
    """uint8 [H, W, 3] RGB as a JPEG with whole colour resolution."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()
