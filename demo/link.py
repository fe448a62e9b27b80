"""The pack inside a ComfyUI's `custom_nodes`: a link, never a copy. Standard library only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def link_pack(custom_nodes: Path, pack: Path = ROOT, name: str = "faceclip") -> Path | None:
    """Link the pack into `custom_nodes`; return the link, or None when the pack is there already, under any name.

    Raises FileExistsError when something else has the name: nothing of the user's is replaced.
    """
    custom_nodes.mkdir(parents=True, exist_ok=True)
    if any(entry.resolve() == pack.resolve() for entry in custom_nodes.iterdir()):
        return None
    link = custom_nodes / name
    if link.is_symlink() and not link.exists():
        link.unlink()  # points to where the pack was before it moved
    if os.path.lexists(link):
        raise FileExistsError(
            f"{link} is there already and is not this copy of the pack ({pack}). "
            "Move it away, or run dev.py from that folder, then try again."
        )
    if sys.platform == "win32":
        # A junction needs no administrator, a symbolic link does.
        subprocess.run(["cmd", "/c", "mklink", "/J", str(link), str(pack)], check=True, stdout=subprocess.DEVNULL)
    else:
        link.symlink_to(pack, target_is_directory=True)
    return link


def unlink_pack(link: Path) -> None:
    """Remove a link that `link_pack` made; what it points to stays."""
    if sys.platform == "win32":
        link.rmdir()  # removes the junction alone
    else:
        link.unlink()
