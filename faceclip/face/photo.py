"""Pictures in: files, ComfyUI images and odd formats become uint8 RGB."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from .protocol import FaceError

PAPER = 255  # what shows through a transparent picture: white, as in a browser


def load_photo(path: str | Path) -> np.ndarray:
    """Read an image file as uint8 [H, W, 3] RGB.

    Turned upright by its EXIF orientation, transparency laid over white, grey spread over three channels, 16 bits
    reduced to 8.

    Raises:
        FaceError: the file is missing, empty, cut short or no image.
    """
    path = Path(path)
    if not path.is_file():
        raise FaceError(f"There is no image file at {path}. Check the name and the folder.")
    if path.stat().st_size == 0:
        raise FaceError(f"The image file {path} is empty (0 bytes): copy or download it again.")
    try:
        with warnings.catch_warnings():
            # A camera's 100 megapixels are no attack; Pillow still refuses twice that.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                upright = ImageOps.exif_transpose(picture)
                return _to_rgb(upright)
    except UnidentifiedImageError as error:
        raise FaceError(f"{path} is not an image that Pillow can read. Save the photo as JPEG, PNG or WebP.") from error
    except OSError as error:
        raise FaceError(f"The image file {path} is damaged or cut short ({error}): copy or download it again.") from error
    except Image.DecompressionBombError as error:
        raise FaceError(f"The image {path} is too large to open safely ({error}). Make it smaller first.") from error


def _to_rgb(picture: Image.Image) -> np.ndarray:
    if picture.mode.startswith(("I", "F")):
        # 16-bit grey: Pillow's own conversion clips everything above 255 to white.
        grey = np.asarray(picture, dtype=np.float64)
        grey = grey / 257 if grey.max(initial=0) > 255 else grey
        return np.repeat(np.clip(grey.round(), 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        paper = Image.new("RGBA", layer.size, (PAPER, PAPER, PAPER, 255))
        return np.array(Image.alpha_composite(paper, layer).convert("RGB"))
    return np.array(picture.convert("RGB"))


def to_rgb8(image: torch.Tensor) -> np.ndarray:
    """Return one ComfyUI image, float [H, W, C] in [0, 1] with 1, 3 or 4 channels, as uint8 [H, W, 3].

    Raises:
        FaceError: another number of dimensions or channels, or no pixels.
    """
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        raise FaceError(
            f"Expected an image [height, width, channels] of 1 (grey), 3 (RGB) or 4 (RGBA) channels, "
            f"got a tensor of shape {list(image.shape)}."
        )
    if image.numel() == 0:
        raise FaceError(f"The image has no pixels ({image.shape[1]} x {image.shape[0]}).")
    pixels = image.detach().to("cpu", torch.float32)
    if pixels.shape[2] == 1:
        pixels = pixels.expand(-1, -1, 3)
    elif pixels.shape[2] == 4:
        alpha = pixels[:, :, 3:].clamp(0, 1)
        pixels = torch.lerp(torch.full((), PAPER / 255), pixels[:, :, :3], alpha)
    # In place after the first product: an 8,000 x 8,000 image is 768 MB in float.
    return (pixels * 255).round_().clamp_(0, 255).to(torch.uint8).numpy()


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
