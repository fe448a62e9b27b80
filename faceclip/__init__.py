"""FaceCLIP (arXiv 2504.14202): joint identity-text encoders that condition
SDXL, and FLUX. Knows neither ComfyUI nor training."""

from .config import FaceCLIPConfig
from .face.protocol import DetectorUnavailableError, FaceError, NoFaceError
from .flux import FaceT5Encoder
from .identity import Identity
from .model.encoder import Conditioning, FaceCLIPEncoder
from .tensor_entry import CheckpointError

__all__ = [
    "CheckpointError",
    "Conditioning",
    "DetectorUnavailableError",
    "FaceCLIPConfig",
    "FaceCLIPEncoder",
    "FaceError",
    "FaceT5Encoder",
    "Identity",
    "NoFaceError",
]
