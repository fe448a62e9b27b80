"""The graph's side of the pack: one file per step. Each node is a thin shell around one call into `faceclip/`."""

from .extension import FaceCLIPExtension
