"""Pictures in: the one door for files, bytes and ComfyUI images of any format.

uint8 RGB comes out, or one clear error.
"""

from __future__ import annotations

import io
import math
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from .deep_grey import deep_grey, strips
from .photo_bytes import PNG, png_pixels, what_it_is
from .protocol import FaceError

PAPER = 255  # what shows through a transparent picture: white, as in a browser

# Pixels only: nothing that is a program (EPS and PDF start Ghostscript) or drawn by one (WMF), nothing that only names a file.
# No texture of a game that holds a JPEG of any size (BLP).
FORMATS = (
    *("JPEG", "PNG", "WEBP", "MPO", "TIFF", "AVIF", "HEIF", "GIF", "BMP", "DIB", "JPEG2000", "JXL", "PPM", "PSD", "TGA"),
    *("QOI", "ICO", "ICNS", "CUR", "DDS", "PCX", "DCX", "SGI", "SUN", "IM", "MSP", "XBM", "XPM", "SPIDER"),
)
LARGEST = 1 << 30  # bytes of memory that reading one picture may take

_ORIENTATION = 0x0112
_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}  # bytes a pixel in Pillow; others have 4
_BUFFERS = {"WEBP": 12, "AVIF": 12, "HEIF": 12, "JPEG2000": 16, "JXL": 12}  # bytes a pixel within the decoder
_TILE = (322, 323)  # tags of a TIFF: width and height of the tiles that it is decoded in
_FILMS = ("GIF", "WEBP", "PNG", "AVIF")

Convert = Callable[[Image.Image], Image.Image]
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Photo:
    """A picture file that was read."""

    pixels: np.ndarray
    """uint8 [H, W, 3] RGB, upright."""
    format: str
    mode: str
    """What the file holds, in Pillow's terms: `RGB`, `CMYK`, `I;16`, ..."""
    orientation: int
    """EXIF's: 1 for a file that is upright as it is."""
    frames: int
    """Pictures of a film. A camera's MPO and a TIFF have 1: their others are previews and pages."""
    profile: bytes | None
    """The ICC profile of its colours, which `pixels` do not heed."""


def load_photo(path: str | Path) -> np.ndarray:
    """Read an image file as uint8 [H, W, 3] RGB.

    Turned upright by its EXIF orientation, transparency laid over white, grey spread over three channels, of a
    film the first picture. Grey of more than 8 bits is reduced by its range: 12, 16, 24 or 32 bits, floats up to
    1, 255 or 65535. Damaged metadata is ignored; a JPEG whose last bytes are missing is read where its pixels are
    there.

    Raises:
        FaceError: the file is missing, empty, cut short, no picture, or larger than 1 GiB in memory.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise FaceError(f"There is no image file at {path}. Check the name and the folder.")
        with path.open("rb") as file:
            return read_photo(file, str(path)).pixels
    except OSError as error:
        raise FaceError(f"{path} cannot be opened ({error.strerror or error}). Check who may read it.") from error


def read_photo(
    file: BinaryIO | bytes,
    name: str,
    least: int | None = None,
    convert: Callable[[Image.Image], Convert | None] | None = None,
) -> Photo:
    """`load_photo` for an open file or its bytes; `name` stands for it in errors.

    Args:
        least: a large JPEG may come back smaller, each side at least so many pixels, which is faster.
        convert: given the opened picture, returns how parts of it become RGB, or None for the usual way.
    """
    return _through(file, name, lambda picture: _photo(picture, name, least, convert))


def photo_size(file: BinaryIO | bytes, name: str) -> tuple[int, int]:
    """Height and width of what `read_photo` makes of a file, by its header where that tells them.

    Raises FaceError as it does.
    """

    def upright(picture: Image.Image) -> tuple[int, int]:
        if picture.format == "TIFF":  # Pillow turns these itself, once it has read the pixels
            picture.load()
        width, height = picture.size
        return (height, width) if _orientation(picture) < 5 else (width, height)

    return _through(file, name, upright)


def _through(file: BinaryIO | bytes, name: str, work: Callable[[Image.Image], Result]) -> Result:
    """The door: what `work` makes of the opened picture, whose pixels are bounded and not yet read."""
    file = io.BytesIO(file) if isinstance(file, bytes) else file
    if file.seek(0, io.SEEK_END) == 0:
        raise FaceError(f"The image file {name} is empty (0 bytes): copy or download it again.")
    try:
        try:
            return _open(file, name, FORMATS, work)
        except FaceError:
            raise
        except Exception:
            # Load Image reads these as well. Pillow's own switch for it would let a picture of which half is grey pass.
            if (mended := _mended(file, name)) is None:
                raise
            return _open(mended, name, ("JPEG", "PNG"), work)
    except FaceError:
        raise
    except UnidentifiedImageError as error:
        file.seek(0)
        raise FaceError(what_it_is(file.read(1024), name)) from error
    except Image.DecompressionBombError as error:
        raise FaceError(f"The image {name} is too large to open safely ({error}). Make it smaller first.") from error
    except MemoryError as error:
        raise FaceError(f"There is not enough memory to open the image {name}. Make it smaller first.") from error
    except Exception as error:  # Pillow's decoders raise what comes: struct.error, SyntaxError, KeyError, ...
        why = f"{type(error).__name__}: {str(error)[:160]}"
        raise FaceError(f"The image file {name} is damaged or cut short ({why}): copy or download it again.") from error


def _open(file: BinaryIO, name: str, formats: tuple[str, ...], work: Callable[[Image.Image], Result]) -> Result:
    Image.init()
    file.seek(0)
    with warnings.catch_warnings():
        # A camera's 100 megapixels are no attack; damaged metadata is none of the artist's business.
        warnings.simplefilter("ignore")
        with Image.open(file, formats=[known for known in formats if known in Image.OPEN]) as picture:
            _require_room(picture, name)
            return work(picture)


def _photo(picture: Image.Image, name: str, least: int | None, convert: Callable[[Image.Image], Convert | None] | None) -> Photo:
    kind, mode, frames = picture.format or "", picture.mode, _frames(picture)
    profile = picture.info.get("icc_profile")
    if least is not None:
        picture.draft("RGB", (least, least))
    picture.load()
    orientation = _orientation(picture)
    pixels = _upright(picture, orientation, (convert and convert(picture)) or _converter(picture, name))
    return Photo(pixels, kind, mode, orientation, frames, profile)


def _require_room(picture: Image.Image, name: str) -> None:
    """Raise FaceError before anything is decoded, where that would take more memory than a photograph is worth."""
    width, height = picture.size
    kept = _STORED.get(picture.mode, 4)
    decoder = _BUFFERS.get(picture.format or "", 0)
    if picture.format in ("JPEG", "MPO") and picture.info.get("progressive"):
        decoder = 2 * len(picture.getbands())
    needed = width * height * (kept + max(3, decoder))
    if picture.format == "TIFF":  # a tile is decoded whole, however little of it shows
        needed = max(needed, math.prod(int(picture.tag_v2.get(tag, 0)) for tag in _TILE) * 8)  # type: ignore[attr-defined]
    if needed > LARGEST:
        raise FaceError(
            f"The image {name} is too large to open safely: {width} x {height} pixels take {needed / 2**30:.1f} GiB of memory, "
            f"{LARGEST / 2**30:.0f} are allowed. Make it smaller first."
        )


def _frames(picture: Image.Image) -> int:
    if picture.format not in _FILMS:
        return 1
    try:
        return int(getattr(picture, "n_frames", 1))
    except Exception:  # what follows the first picture is damaged
        return 1


def _orientation(picture: Image.Image) -> int:
    try:
        found = picture.getexif().get(_ORIENTATION, 1)
        return found if found in range(1, 9) else 1
    except Exception:  # of metadata that is damaged Pillow raises what comes
        return 1


def _upright(picture: Image.Image, orientation: int, convert: Convert) -> np.ndarray:
    """Converted a strip at a time, straight into the place where each pixel
    ends: two copies would be twice the memory."""
    width, height = picture.size
    upright = np.empty((height, width, 3) if orientation < 5 else (width, height, 3), np.uint8)
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    for top, strip in strips(picture):
        turned[top : top + strip.height] = np.asarray(convert(strip))
    return upright


def _converter(picture: Image.Image, name: str) -> Convert:
    """How parts of this picture become RGB of 8 bits."""
    if picture.mode.startswith(("I", "F")):
        return deep_grey(picture, name)
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        return _on_paper
    # Of a picture that is RGB `convert` makes a copy: in fresh memory that takes as long as decoding it.
    return lambda part: part if part.mode == "RGB" else part.convert("RGB")


def _on_paper(part: Image.Image) -> Image.Image:
    layer = part.convert("RGBA")
    paper = Image.new("RGBA", layer.size, (PAPER, PAPER, PAPER, 255))
    return Image.alpha_composite(paper, layer).convert("RGB")


def _mended(file: BinaryIO, name: str) -> io.BytesIO | None:
    """The same picture without what Pillow stumbles over and a viewer does not; None where there is nothing to mend."""
    size = file.seek(0, io.SEEK_END)
    if size > LARGEST:
        return None
    file.seek(0)
    content = file.read()
    if content.startswith(PNG):
        mended = png_pixels(content)
        return io.BytesIO(mended) if len(mended) < size else None
    return _with_an_end(content, name) if content.startswith(b"\xff\xd8") else None


def _with_an_end(content: bytes, name: str) -> io.BytesIO | None:
    """A JPEG that lacks its end marker, with one; None where it lacks pixels, too.

    A decoder goes on reading pixels in what stands before the end. If that changes the picture, it was not whole.
    """

    def fingerprint(picture: Image.Image) -> tuple[tuple[int, ...], int]:
        pixels = _photo(picture, name, None, None).pixels
        return pixels.shape, zlib.crc32(pixels.data)

    content = content.rstrip(b"\xff")
    ends = (b"\xff\xd9", b"\x55" * 64 + b"\xff\xd9")
    try:
        first, second = (_open(io.BytesIO(content + end), name, ("JPEG",), fingerprint) for end in ends)
    except (FaceError, OSError, ValueError, SyntaxError):
        return None
    return io.BytesIO(content + ends[0]) if first == second else None


def to_rgb(image: torch.Tensor) -> torch.Tensor:
    """Return one ComfyUI image, float [H, W, C] in [0, 1] with 1, 3 or 4 channels, as float32 [H, W, 3] in [0, 1].

    Grey is spread over three channels, transparency laid over white; what
    a filter left below 0 or above 1 is cut off.

    Raises:
        FaceError: another number of dimensions or channels, no pixels, or values that are not finite numbers.
    """
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        raise FaceError(
            f"Expected an image [height, width, channels] of 1 (grey), 3 (RGB) or 4 (RGBA) channels, "
            f"got a tensor of shape {list(image.shape)}."
        )
    if image.numel() == 0:
        raise FaceError(f"The image has no pixels ({image.shape[1]} x {image.shape[0]}).")
    pixels = image.detach().to("cpu", torch.float32)
    # A sum that is finite has no part that is not; where it overflows, each value is looked at.
    if not math.isfinite(float(pixels.sum())) and not pixels.isfinite().all():
        raise FaceError(
            "The image holds values that are not finite numbers (NaN or infinity), which show as black. A VAE in half precision "
            "makes them: run it in fp32 (--fp32-vae), or use another picture."
        )
    if pixels.shape[2] == 1:
        pixels = pixels.expand(-1, -1, 3)
    elif pixels.shape[2] == 4:
        alpha = pixels[:, :, 3:].clamp(0, 1)
        pixels = torch.lerp(torch.full((), PAPER / 255), pixels[:, :, :3], alpha)
    return pixels.clamp(0, 1)


def to_rgb8(image: torch.Tensor) -> np.ndarray:
    """`to_rgb` as uint8 [H, W, 3]. Raises FaceError as it does."""
    # In place: an 8,000 x 8,000 image is 768 MB in float.
    return to_rgb(image).mul_(255).round_().to(torch.uint8).numpy()


def resize_to(image: np.ndarray, long_side: int) -> tuple[np.ndarray, float]:
    """Return `image` (uint8 [H, W, 3]) with its longer side `long_side` pixels, and the factor (new / old).

    Shrinking averages over the pixels it drops, so that a large photo does not alias.
    """
    height, width = image.shape[:2]
    scale = long_side / max(height, width)
    if scale == 1:
        return image, 1.0
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    filtered = Image.Resampling.BILINEAR
    return np.array(Image.fromarray(image).resize(size, filtered, reducing_gap=3.0)), scale
