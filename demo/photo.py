"""The photo of the demo, read before anything is started."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, UnidentifiedImageError


class PhotoError(ValueError):
    """A photo cannot be used."""


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
