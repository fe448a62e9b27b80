"""FaceT5-FLUX, the release's other half: FLUX.1-dev conditioned by T5's reading of the prompt and a face."""

from .encoder import FaceT5Encoder

__all__ = ["FaceT5Encoder"]
