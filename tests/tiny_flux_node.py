"""A custom node of the tests: the core's DualCLIPLoader for text encoders as small as the golden FaceT5's.

The core knows T5 by 24 blocks of width 4096, so its own loader cannot
read these; everything after it is the core's.
"""

import importlib.util
from pathlib import Path

import folder_paths


class TinyFluxCLIP:
    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "load", ("CLIP",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"clip_name1": ("STRING", {}), "clip_name2": ("STRING", {})}}

    def load(self, clip_name1, clip_name2):
        spec = importlib.util.spec_from_file_location("flux_core", Path(__file__).parent / "flux_core.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        paths = [Path(folder_paths.get_full_path_or_raise("text_encoders", name)) for name in (clip_name1, clip_name2)]
        return (module.tiny_flux_clip(*paths),)


NODE_CLASS_MAPPINGS = {"TinyFluxCLIP": TinyFluxCLIP}
