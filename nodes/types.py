"""The types that only this pack's nodes exchange."""

from __future__ import annotations

from comfy_api.latest import io

from ..faceclip import Identity
from ..faceclip.face import FaceDetector
from .encoder_model import EncoderModel, FaceT5Model


@io.comfytype(io_type="FACE_DETECTOR")
class FaceDetectorType(io.ComfyTypeIO):
    Type = FaceDetector


@io.comfytype(io_type="FACECLIP_ENCODER")
class EncoderType(io.ComfyTypeIO):
    Type = EncoderModel


@io.comfytype(io_type="FACET5_ENCODER")
class FaceT5Type(io.ComfyTypeIO):
    Type = FaceT5Model


@io.comfytype(io_type="FACECLIP_IDENTITY")
class IdentityType(io.ComfyTypeIO):
    Type = Identity
