"""How the workflows are called, and in which order an artist wants them.

ComfyUI's template browser has a file's name for its title, and that name alone for an order. *FaceCLIP*
finds them by the browser's search among everyone's, the number sorts them.
"""

from __future__ import annotations

TITLES = (
    "Mini demo",
    "Portrait",
    "Best of four",
    "Several photos",
    "Save a person",
    "Saved person",
    "Mini two people",
    "Mini three people",
    "Group photo",
    "Face swap",
    "Image to image",
    "Pose",
    "Style LoRA",
    "Hires fix",
    "Few steps",
    "Several prompts",
    "Folder of photos",
    "Blend two people",
    "Face comes later",
    "Own checkpoint",
    "FLUX portrait",
    "FLUX two people",
    "FLUX saved person",
)
"""What one does first comes first; what needs more files, or is an experiment, comes last."""


def file_name(title: str) -> str:
    """Of a workflow, without its ending. Raises ValueError for a title that is none."""
    return f"FaceCLIP {TITLES.index(title) + 1:02} {title}"
