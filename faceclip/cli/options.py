"""Options that several commands share, and the types that turn a bad
value into a clear message before anything is loaded."""

from __future__ import annotations

import argparse
import io
import math
import os
import sys
from pathlib import Path
from typing import get_args

import torch
from PIL import Image

from ..face import CROP_SIZE, Backend, Order
from ..file_names import LONGEST, is_portable
from ..pipeline import best_device

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CONVERT_DTYPES = {**DTYPES, "fp8": torch.float8_e4m3fn}
ORDERS = get_args(Order)


def add_detector_options(parser: argparse.ArgumentParser) -> None:
    """Who finds the faces, and in which order."""
    parser.add_argument("--backend", choices=get_args(Backend), default="auto", help="the face detector (default: auto)")
    parser.add_argument(
        "--order",
        type=lambda text: text.replace("-", " "),
        choices=ORDERS,
        default="largest",
        metavar="ORDER",
        help=f"how faces are numbered: {', '.join(order.replace(' ', '-') for order in ORDERS)} (default: largest)",
    )


def add_encoder_options(parser: argparse.ArgumentParser) -> None:
    """The encoder, the face it gets, and where it runs."""
    parser.add_argument("--encoder", type=Path, required=True, help="face_clip_encoder.pt, or a converted file")
    parser.add_argument("--face", type=Path, help="a photo of the person; without it the text alone counts")
    parser.add_argument("--aligned", action="store_true", help=f"the face is a {CROP_SIZE} x {CROP_SIZE} crop made by `detect`")
    parser.add_argument("--index", type=int, default=0, help="which face of the photo, from 0 in the chosen order")
    parser.add_argument("--strength", type=not_negative, default=1.0, help="of the face: 0 is text only, 1 as trained (default)")
    parser.add_argument("--device", type=usable_device, default=best_device(), help="default: the GPU, if there is one")
    parser.add_argument("--dtype", choices=DTYPES, help="default: bf16 on a GPU, fp32 on a CPU")
    add_detector_options(parser)


def print_anything() -> None:
    """Have output in any code page take any name: of a Western Windows'
    cp1252, a Japanese one would end the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def safetensors_path(text: str) -> Path:
    """A path to write safetensors to."""
    path = _file_path(text)
    if path.suffix != ".safetensors":
        raise argparse.ArgumentTypeError(f"{text} must end in .safetensors, the format that is written")
    return path


def picture_path(text: str) -> Path:
    """A path whose ending is a picture format that Pillow writes."""
    path = _file_path(text)
    kind = Image.registered_extensions().get(path.suffix.lower())
    try:
        Image.new("RGB", (32, 32)).save(io.BytesIO(), kind or "none")  # many formats are only read, or hold no colours
    except (KeyError, OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text} must end in .png, .jpg, .webp or another format of colour pictures") from error
    return path


def _file_path(text: str) -> Path:
    """A path that a file can be written to, as far as can be told before the work."""
    path = Path(text)
    if len(path.name.encode("utf-8", "surrogateescape")) > LONGEST:
        raise argparse.ArgumentTypeError(f"{path.name[:40]}... is too long: a file's name has {LONGEST} bytes at most")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder; name the file to write")
    if os.name == "nt" and not is_portable(path.name):
        raise argparse.ArgumentTypeError(f"{path.name} cannot be a file's name on Windows")
    return path


def usable_device(text: str) -> torch.device:
    """A device that torch can use here."""
    try:
        device = torch.device(text)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise argparse.ArgumentTypeError(f"torch cannot use {text!r} here; this machine offers {best_device()}") from error
    return device


def multiple_of_8(text: str) -> int:
    """A side of a picture, in pixels."""
    value = int(text)
    if value < 8 or value % 8:
        raise argparse.ArgumentTypeError(f"must be a multiple of 8 pixels, found {value}")
    return value


def at_least_one(text: str) -> int:
    """A count."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, found {value}")
    return value


def seed_number(text: str) -> int:
    """What a torch generator takes."""
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"must be from 0 to 2^63 - 1, found {value}")
    return value


def not_negative(text: str) -> float:
    """A finite number of 0 or more."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be 0 or more, found {text}")
    return value
