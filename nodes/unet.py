"""Load FaceCLIP UNet: FaceCLIP's fine-tuned SDXL UNet, in any format it comes in, as a MODEL of the core."""

from __future__ import annotations

from comfy_api.latest import io

from .compat import newer, require_choice
from .files import UNET
from .folders import UNET_FOLDERS, find_file, is_there
from .inputs import file_input, kept_input
from .unet_file import WEIGHT_DTYPES, load_unet


class FaceCLIPUNetLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCLIPUNetLoader",
            display_name="Load FaceCLIP UNet",
            category="FaceCLIP/loaders",
            description="Load the SDXL UNet that FaceCLIP was trained with. LoRA, ControlNet and samplers work as with SDXL.",
            inputs=[
                file_input("unet_name", UNET),
                kept_input(
                    "weight_dtype",
                    WEIGHT_DTYPES,
                    "How the weights are kept in memory. default: what suits this computer. "
                    "fp8 halves the memory of fp16 at some loss of detail.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The diffusion model, for a sampler or a LoRA loader.")],
            **newer(io.Schema, search_aliases=["faceclip model", "sdxl unet", "unet.pt"]),
        )

    @classmethod
    def validate_inputs(cls, unet_name: str | None = None) -> bool | str:
        return is_there(unet_name=(unet_name, UNET_FOLDERS))

    @classmethod
    def execute(cls, unet_name: str, weight_dtype: str) -> io.NodeOutput:
        require_choice("weight_dtype", weight_dtype, WEIGHT_DTYPES)
        return io.NodeOutput(load_unet(find_file(unet_name, UNET_FOLDERS), WEIGHT_DTYPES[weight_dtype]))
