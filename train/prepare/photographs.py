"""What a shard keeps of a picture file: upright sRGB pixels as a JPEG, and nothing that tells where or by whom it was taken.

Colours: training reads pixels as sRGB, so a picture with another colour profile is converted and stored without it.
Metadata: EXIF (camera, place, time, preview), XMP, IPTC, comments, and whatever a camera appends are left out.
"""

from __future__ import annotations

import functools
import io
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps

from faceclip.face import FaceError, load_photo

from ..data.storage import is_local

JPEG_QUALITY = 95
_UPRIGHT = (None, 1)
_EXIF_ORIENTATION = 0x0112
# Formats whose further pictures are a film; those of a camera's MPO or a TIFF are previews and pages.
_FILMS = ("GIF", "WEBP", "PNG", "AVIF")
# Segments of a JPEG that say how to read its pixels: JFIF (APP0) and Adobe's colour transform (APP14). The other APPn and the
# comment are metadata.
_METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}
_SCAN, _END = 0xDA, 0xD9
# The next marker after pixels: 0xFF not followed by a stuffed zero, a restart, or more filling.
_AFTER_SCAN = re.compile(rb"\xff+(?=[^\x00\xff\xd0-\xd7])")


class AnimatedError(ValueError):
    """A film, not a photograph."""


def read_photo(data: bytes, name: str) -> tuple[bytes, np.ndarray]:
    """A picture file as (the JPEG to store, its pixels uint8 [H, W, 3]); `name`, a path if it is one, stands for it in errors.

    Raises:
        AnimatedError: the file holds several frames.
        FaceError: the file is empty, cut short or no picture. Damaged files make decoders raise other errors, too.
    """
    pixels = _load(data, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `load_photo` refuses what is no photograph's size
        picture = Image.open(io.BytesIO(data))
    with picture:
        if picture.format in _FILMS and getattr(picture, "n_frames", 1) > 1:
            raise AnimatedError(f"{name} has {getattr(picture, 'n_frames', 1)} frames")
        profile = picture.info.get("icc_profile")
        to_srgb = _to_srgb(profile, "CMYK" if picture.mode == "CMYK" else "RGB") if profile else None
        if to_srgb is not None:
            # Printers' colours are converted as they are, the others after transparency was laid over white.
            source = ImageOps.exif_transpose(picture) if picture.mode == "CMYK" else Image.fromarray(pixels)
            pixels = np.array(ImageCms.applyTransform(source, to_srgb))
        elif is_plain_jpeg(picture):
            return without_metadata(data), pixels
    return to_jpeg(pixels), pixels


def _load(data: bytes, name: str) -> np.ndarray:
    if is_local(name) and Path(name).is_file():
        return load_photo(name)
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        try:
            return load_photo(file.name)
        except FaceError as error:
            raise FaceError(str(error).replace(file.name, name)) from error


@functools.lru_cache(maxsize=64)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The way from a profile to sRGB; None where there is nothing to do: it is sRGB, of another kind than `mode`, or broken."""
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


def is_plain_jpeg(picture: Image.Image) -> bool:
    """Whether a file is an upright RGB JPEG, whose pixels are stored as they are: compressing again would lose detail."""
    # MPO is a JPEG with further ones behind it.
    kind = picture.format in ("JPEG", "MPO") and picture.mode == "RGB"
    return kind and picture.getexif().get(_EXIF_ORIENTATION) in _UPRIGHT


def without_metadata(data: bytes) -> bytes:
    """A JPEG with the same pixels and nothing else: no EXIF, XMP, IPTC, colour profile, comment, nor bytes behind its end.

    Raises:
        ValueError: the bytes are no whole JPEG.
    """
    if data[:2] != b"\xff\xd8":
        raise ValueError("it does not begin like a JPEG")
    kept, place = [data[:2]], 2
    while place < len(data):
        start = place
        while data[place : place + 1] == b"\xff":
            place += 1
        if place == start or place >= len(data):
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
