"""ComfyUI's door to the pack. Everything else lives in `nodes/` (the graph) and `faceclip/` (the library)."""

WEB_DIRECTORY = "./web"  # help pages: docs/<node id>.md


async def comfy_entrypoint():
    """Return the extension that ComfyUI registers.

    Imported here so that plain Python can import the folder without ComfyUI.
    """
    from .nodes import FaceCLIPExtension

    return FaceCLIPExtension()
