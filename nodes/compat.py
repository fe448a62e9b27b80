"""Differences between ComfyUI versions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import Any


def newer(target: Callable[..., Any], **options: Any) -> dict[str, Any]:
    """Those `options` that `target` takes in the running ComfyUI: one
    unknown field would keep the whole pack from loading.

    >>> io.Schema(node_id="...", **newer(io.Schema, search_aliases=["portrait"]))
    """
    known = inspect.signature(target).parameters
    return {name: value for name, value in options.items() if name in known}


def require_choice(name: str, value: str, options: Collection[str]) -> None:
    """Raise ValueError unless a combo's value is one of its options: ComfyUI
    0.3.75 does not look, nor at what a link brings."""
    if value not in options:
        raise ValueError(f"{name} is {value!r}. Choose one of: {', '.join(options)}.")
