"""A line of text on a node while the front end is open: what it has found, without a node to show it."""

from __future__ import annotations

import sys
from typing import Any


def show_status(text: str) -> None:
    """Show `text` on the node that runs, in the browser that queued it. A ComfyUI that cannot is left alone.

    The text is no output: it is gone when the page is loaded again, and a node that need not run says nothing new.
    """
    try:
        from comfy_execution.utils import get_executing_context
    except ImportError:
        return
    context = get_executing_context()
    server: Any = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if context is not None and hasattr(server, "send_progress_text"):
        server.send_progress_text(text, context.node_id, server.client_id)
