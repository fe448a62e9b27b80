"""What ComfyUI registers."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io
from typing_extensions import override

from .encode import FaceCLIPEncodeIdentity, FaceCLIPEncoderLoader
from .example import FaceCLIPExampleFace
from .faces import FaceCLIPDetectFaces, FaceCLIPFaceDetectorLoader
from .facet5 import FaceCLIPT5Loader, FaceCLIPT5TextEncode
from .folders import register_folders
from .identities import FaceCLIPBlendIdentities, FaceCLIPLoadIdentity, FaceCLIPSaveIdentity
from .loader import FaceCLIPLoader
from .similarity import FaceCLIPFaceSimilarity
from .text_encode import FaceCLIPTextEncode
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
    FaceCLIPFaceSimilarity,
    FaceCLIPT5Loader,
    FaceCLIPT5TextEncode,
    FaceCLIPLoader,
    FaceCLIPExampleFace,
)


class FaceCLIPExtension(ComfyExtension):
    """The pack's nodes and model folders."""

    def __init__(self) -> None:
        register_folders()  # not in `on_load`: ComfyUI 0.3.75 never calls it

    @override
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return list(NODES)
