"""Differences between ComfyUI versions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def newer(target: Callable[..., Any], **options: Any) -> dict[str, Any]:
    """Those `options` that `target` takes in the running ComfyUI: one unknown field would keep the whole pack from loading.

    >>> io.Schema(node_id="...", **newer(io.Schema, search_aliases=["portrait"]))
    """
    known = inspect.signature(target).parameters
    return {name: value for name, value in options.items() if name in known}
