"""What the bytes of a picture file say where Pillow gives up."""

from __future__ import annotations

import struct

PNG = b"\x89PNG\r\n\x1a\n"
_NEEDED_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def png_pixels(content: bytes) -> bytes:
    """A PNG's pixels alone: Pillow refuses a file with much text in it, or with damage in any of its texts."""
    kept, place = [PNG], len(PNG)
    while place + 12 <= len(content):
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        if kind in _NEEDED_CHUNKS:
            kept.append(content[place : place + 12 + length])
        place += 12 + length
    return b"".join(kept)


def what_it_is(start: bytes, name: str) -> str:
    """What a file is that Pillow does not read, by its first bytes, and what to do with it."""
    if start[4:8] == b"ftyp" and start[8:12] in _HEIC:
        return (
            f"{name} is a HEIC picture, as iPhones take them, which Pillow does not read by itself. Save it as JPEG (on the "
            "phone: Settings, Camera, Formats, Most Compatible)."
        )
    if start[4:8] == b"ftyp" and start[8:12] in (b"avif", b"avis"):
        return (
            f"{name} is an AVIF picture, which this Pillow does not read: run `pip install --upgrade pillow` (11.3 or newer) in "
            "ComfyUI's Python, or save the picture as JPEG or PNG."
        )
    if start.lstrip()[:4] in (b"%!PS", b"%PDF") or start[:4] == b"\xc5\xd0\xd3\xc6":
        return f"{name} is a PostScript or PDF file, a program that draws, which is not run here. Save the photo as JPEG or PNG."
    if start.lstrip()[:1] == b"<":
        return f"{name} is a web page or a drawing (SVG), not a photo. Save the photo itself, as JPEG, PNG or WebP."
    return f"{name} is not an image that Pillow can read. Save the photo as JPEG, PNG or WebP."
