"""Load FaceCLIP: encoder, UNet and VAE by one node, with defaults that belong together."""

from __future__ import annotations

import comfy.sd
import comfy.utils
from comfy_api.latest import io

from .compat import newer, require_choice
from .encode import conversion_hint
from .encoder_model import FACECLIP_DTYPES, EncoderModel
from .files import ENCODER, UNET, VAE
from .fit import require_fit
from .folders import MODELS, UNET_FOLDERS, VAES, find_file, is_there
from .inputs import file_input, kept_input
from .status import STAYS, words_if_any
from .types import EncoderType
from .unet_file import WEIGHT_DTYPES, load_unet


class FaceCLIPLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCLIPLoader",
            display_name="Load FaceCLIP",
            category="FaceCLIP/loaders",
            description="FaceCLIP by one node: the encoder, the SDXL UNet that was trained with it, and SDXL's VAE.",
            inputs=[
                file_input("encoder_name", ENCODER),
                file_input("unet_name", UNET),
                file_input("vae_name", VAE),
                kept_input(
                    "dtype",
                    FACECLIP_DTYPES,
                    "How the encoder's weights are kept; it computes in fp32. default: bf16 stays bf16, others are kept as "
                    "ComfyUI keeps text encoders. int8, on a CPU only: faster and smaller, less exact.",
                ),
                kept_input(
                    "weight_dtype",
                    WEIGHT_DTYPES,
                    "How the UNet's weights are kept in memory. default: what suits this computer. "
                    "fp8 halves the memory of fp16 at some loss of detail.",
                ),
            ],
            outputs=[
                EncoderType.Output("encoder", display_name="encoder", tooltip="For Encode Identity and FaceCLIP Text Encode."),
                io.Model.Output("model", display_name="model", tooltip="The diffusion model, for a sampler or a LoRA loader."),
                io.Vae.Output("vae", display_name="vae", tooltip="From latents to pictures and back, for VAE Decode."),
            ],
            **STAYS,
            **newer(io.Schema, search_aliases=["faceclip checkpoint", "faceclip model", "face_clip_encoder", "unet.pt"]),
        )

    @classmethod
    def validate_inputs(
        cls, encoder_name: str | None = None, unet_name: str | None = None, vae_name: str | None = None
    ) -> bool | str:
        return is_there(encoder_name=(encoder_name, [MODELS]), unet_name=(unet_name, UNET_FOLDERS), vae_name=(vae_name, [VAES]))

    @classmethod
    def execute(cls, encoder_name: str, unet_name: str, vae_name: str, dtype: str, weight_dtype: str) -> io.NodeOutput:
        require_choice("dtype", dtype, FACECLIP_DTYPES)
        require_choice("weight_dtype", weight_dtype, WEIGHT_DTYPES)
        encoder_path, unet_path = find_file(encoder_name, [MODELS]), find_file(unet_name, UNET_FOLDERS)
        vae_path = find_file(vae_name, [VAES])
        encoder = EncoderModel.from_file(encoder_path, FACECLIP_DTYPES[dtype])
        model = load_unet(unet_path, WEIGHT_DTYPES[weight_dtype])
        require_fit(encoder, model.model.model_config.unet_config["context_dim"], unet_name)
        vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(vae_path), safe_load=True))
        vae.throw_exception_if_invalid()
        return io.NodeOutput(encoder, model, vae, ui=words_if_any(conversion_hint(encoder_path, encoder.values)))
