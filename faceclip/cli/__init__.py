"""The command line, `faceclip` or `python -m faceclip`."""

from .commands import build_parser, main

__all__ = ["build_parser", "main"]
