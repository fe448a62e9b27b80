"""FaceCLIP (arXiv 2504.14202): a joint identity-text encoder that conditions SDXL. Knows neither ComfyUI nor training."""

from .config import FaceCLIPConfig
from .identity import Identity
from .model.encoder import Conditioning, FaceCLIPEncoder

__all__ = ["Conditioning", "FaceCLIPConfig", "FaceCLIPEncoder", "Identity"]
