"""What ComfyUI registers."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io
from typing_extensions import override

from .encode import FaceCLIPEncodeIdentity, FaceCLIPEncoderLoader, FaceCLIPTextEncode
from .faces import FaceCLIPDetectFaces, FaceCLIPFaceDetectorLoader
from .folders import register_folders
from .identities import FaceCLIPBlendIdentities, FaceCLIPLoadIdentity, FaceCLIPSaveIdentity
from .unet import FaceCLIPUNetLoader

NODES: tuple[type[io.ComfyNode], ...] = (
    FaceCLIPFaceDetectorLoader,
    FaceCLIPDetectFaces,
    FaceCLIPEncoderLoader,
    FaceCLIPEncodeIdentity,
    FaceCLIPBlendIdentities,
    FaceCLIPSaveIdentity,
    FaceCLIPLoadIdentity,
    FaceCLIPTextEncode,
    FaceCLIPUNetLoader,
)


class FaceCLIPExtension(ComfyExtension):
    """The pack's nodes and model folders."""

    @override
    async def on_load(self) -> None:
        register_folders()

    @override
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return list(NODES)
