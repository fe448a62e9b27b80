"""Packages that one option needs and most runs do not."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any

from .config import ConfigError


def optional(package: str, asked_by: str) -> Any:
    """Import a package for the option `asked_by`. Raises ConfigError where it cannot be imported."""
    # It, which peft imports too, warns of kernels that nobody asked for.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        return import_module(package)
    except ImportError as error:
        raise ConfigError(
            f"{asked_by} needs {package}, which cannot be imported here ({error}): pip install {package}"
        ) from error
