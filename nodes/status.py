"""What nodes say: a line while they run, and pictures with words that stay on them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io, ui

from ..faceclip.face.sheet import draw_sheet, draw_words
from .compat import newer

STAYS = newer(io.Schema, has_intermediate_output=True)
"""For the Schema of a node that shows something and is no output node:
newer front ends show it again on a loaded page."""


def show_status(text: str) -> None:
    """Show `text` on the node that runs, in the browser that queued it. A ComfyUI that cannot is left alone.

    The text is no output: it is gone when the page is loaded again, and newer front ends take it away when the
    run ends. What must be read goes to `words`.
    """
    try:
        from comfy_execution.utils import get_executing_context
    except ImportError:
        return
    context = get_executing_context()
    server: Any = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if context is not None and hasattr(server, "send_progress_text"):
        server.send_progress_text(text, context.node_id, server.client_id)


def words(text: str) -> ui.PreviewImage:
    """A picture of what is to be read on the node.

    As a node's `ui` it stays there after the run, also when the node need
    not run again; a text would not be shown.
    """
    return _shown(draw_words(text))


def words_if_any(*sentences: str) -> Any:
    """As `words`, of the sentences that say something, each on a line of its own; None where none does.

    Any, since ComfyUI's own hints leave out the None that its outputs take.
    """
    present = [sentence for sentence in sentences if sentence]
    return words("\n".join(present)) if present else None


def sheet(pictures: Sequence[np.ndarray], text: str) -> ui.PreviewImage:
    """Pictures (uint8 [H, W, 3]) with words below them, for a node to show."""
    return _shown(draw_sheet(pictures, text))


def _shown(pixels: np.ndarray) -> ui.PreviewImage:
    return ui.PreviewImage(torch.from_numpy(pixels)[None].float() / 255)
