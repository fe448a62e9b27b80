"""The photo of the demo: the user's own, or scikit-image's astronaut."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, UnidentifiedImageError


class PhotoError(ValueError):
    """The user's photo cannot be used."""


def astronaut_photo() -> bytes:
    """A real photograph that comes with scikit-image (NASA's portrait of Eileen Collins, public domain), as PNG."""
    from skimage import data

    buffer = io.BytesIO()
    Image.fromarray(data.astronaut()).save(buffer, "PNG")
    return buffer.getvalue()


def user_photo(path: Path) -> bytes:
    """The file's bytes, once Pillow has read it whole. Raises PhotoError that says what is wrong."""
    if not path.is_file():
        raise PhotoError(f"There is no photo at {path}.")
    try:
        with Image.open(path) as picture:
            picture.load()
    except UnidentifiedImageError as error:
        raise PhotoError(f"{path} is not a picture that can be read. Save the photo as JPEG, PNG or WebP.") from error
    except OSError as error:
        raise PhotoError(f"{path} is damaged or cut short ({error}). Copy it again.") from error
    return path.read_bytes()
