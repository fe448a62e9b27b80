"""FaceCLIP (arXiv 2504.14202): joint identity-text encoders that condition SDXL, and FLUX. Knows neither ComfyUI nor training."""

from .config import FaceCLIPConfig
from .flux import FaceT5Encoder
from .identity import Identity
from .model.encoder import Conditioning, FaceCLIPEncoder

__all__ = ["Conditioning", "FaceCLIPConfig", "FaceCLIPEncoder", "FaceT5Encoder", "Identity"]
