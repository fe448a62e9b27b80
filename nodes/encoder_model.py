"""Encoders as ComfyUI holds them: memory, devices and dtypes belong to ComfyUI's model management."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils
import torch
from torch import Tensor, nn

from ..faceclip import Conditioning, FaceCLIPEncoder, FaceT5Encoder, Identity
from ..faceclip.encoder_file import stored_dtype
from ..faceclip.face.photo import to_rgb
from ..faceclip.model.identity_encoder import IdentityEncoder
from ..faceclip.prompt import LongPrompts
from .watch import Watch, watched

if TYPE_CHECKING:
    from typing_extensions import Self

Kind = TypeVar("Kind", bound=IdentityEncoder)

ENCODER_DTYPES: Mapping[str, torch.dtype | None] = {
    "default": None,
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
FACECLIP_DTYPES: Mapping[str, torch.dtype | None] = {**ENCODER_DTYPES, "int8": torch.int8}
"""FaceCLIP's own has int8 as well, where text encoders compute on a CPU."""
_FACES_AT_ONCE = 8  # through the face tower
_OVERSHOOT = 0.5  # how far below 0 and above 1 a resizing or sharpening filter may reach


class _Weights(nn.Module):
    """What the ModelPatcher moves. It wants to set `device`, which the encoder computes from its weights."""

    def __init__(self, encoder: IdentityEncoder, device: torch.device):
        super().__init__()
        self.encoder = encoder
        self.device = device


class FaceReader(Generic[Kind]):
    """An encoder that ComfyUI loads to the device when it is used, and offloads when it needs the room.

    As ComfyUI's own text encoders do, it computes in fp32 whatever dtype the weights are kept in.
    """

    _read: Callable[..., Kind]
    """The library's reader of its files."""

    def __init__(self, encoder: Kind, load_device: torch.device, offload_device: torch.device):
        encoder.compute_device = load_device
        self._encoder = encoder
        patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
        weights = _Weights(encoder, offload_device)
        self.patcher = patcher(weights, load_device=load_device, offload_device=offload_device, size=_bytes_of(encoder))

    @classmethod
    def from_file(cls, path: Path, dtype: torch.dtype | None) -> Self:
        """Read any file of its kind that the library reads. Raises CheckpointError.

        dtype: what the weights are kept in. None is as ComfyUI keeps text encoders, but bf16 in the file stays
        bf16 where that would be fp16, which takes the same room and has not its range.
        Moves the progress bar and stops on Cancel.
        """
        load_device = comfy.model_management.text_encoder_device()
        offload_device = comfy.model_management.text_encoder_offload_device()
        if dtype == torch.int8 and load_device.type != "cpu":
            raise ValueError(
                f"int8 is for computing on a CPU, and this ComfyUI computes text encoders on {load_device}, which is faster by "
                "itself. Set dtype to default, bf16 or fp16."
            )
        encoder = cls._read(
            path,
            offload_device,
            dtype or _default_dtype(path, load_device),
            compute_dtype=torch.float32,
            operations=comfy.ops.manual_cast,
            progress=Watch(),
        )
        return cls(encoder, load_device, offload_device)

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are kept in."""
        return next(self._encoder.parameters()).dtype

    @property
    def values(self) -> int:
        """How many weights it has; a face tower that both branches share counts once."""
        return sum(t.numel() for t in (*self._encoder.parameters(), *self._encoder.buffers()))

    def encode_faces(self, images: Tensor) -> Identity:
        """Aligned crops as ComfyUI's IMAGE [B, 448, 448, C], float in [0, 1] -> Identity of B people.

        As Detect Faces does, it takes grey and RGBA, and cuts off what a filter left a little below 0 or above 1.
        Raises ValueError for anything else than aligned crops.
        """
        _require_filtered(images)
        faces = torch.stack([to_rgb(image) for image in images]).movedim(-1, 1) if len(images) else images.movedim(-1, 1)[:, :3]
        comfy.model_management.load_models_gpu([self.patcher])
        parts = faces.split(_FACES_AT_ONCE) or (faces,)
        with watched(self._encoder.face_layers, len(parts)):
            parts = [self._encoder.encode_faces(part) for part in parts]
        return Identity.cat(parts).to(comfy.model_management.intermediate_device(), torch.float32)

    @contextmanager
    def at_work(self, passes: int = 1) -> Iterator[None]:
        """With the weights on the device, the progress bar moving, and an eye on the Cancel button."""
        comfy.model_management.load_models_gpu([self.patcher])
        with watched(self._encoder.joint_layers, passes):
            yield


class EncoderModel(FaceReader[FaceCLIPEncoder]):
    """FaceCLIP's encoder."""

    _read = staticmethod(FaceCLIPEncoder.from_file)

    @property
    def conditioning_width(self) -> int:
        """Width of the embeddings: 2048 for SDXL."""
        return sum(branch.width for branch in self._encoder.config.branches.values())

    def encode_text(
        self, prompt: str, identity: Identity | None, strength: float = 1.0, long_prompts: LongPrompts = "cut"
    ) -> Conditioning:
        """One prompt, with each person of `identity` -> conditioning of as many rows (one without). Raises ValueError."""
        with self.at_work():
            found = self._encoder.encode([prompt], identity, strength=strength, long_prompts=long_prompts)
        return _handed_on(found)

    def encode_with_negative(
        self,
        prompt: str,
        negative_prompt: str,
        identity: Identity | None,
        strength: float = 1.0,
        long_prompts: LongPrompts = "cut",
    ) -> tuple[Conditioning, Conditioning]:
        """`encode_text` of the prompt, and of the negative prompt (one row, without a face). Raises ValueError.

        On a GPU in one pass. A CPU gains nothing by that, and alone each is bit for bit what another graph
        makes of it.
        """
        if self.patcher.load_device.type == "cpu":
            with self.at_work(passes=2):
                positive = self._encoder.encode([prompt], identity, strength=strength, long_prompts=long_prompts)
                negative = self._encoder.encode([negative_prompt], long_prompts=long_prompts)
            return _handed_on(positive), _handed_on(negative)
        with self.at_work():
            found = self._encoder.encode_with_negative(
                [prompt], [negative_prompt], identity, strength=strength, long_prompts=long_prompts
            )
        return _handed_on(found[0]), _handed_on(found[1])


class FaceT5Model(FaceReader[FaceT5Encoder]):
    """FaceT5's own part; T5 is the core's."""

    _read = staticmethod(FaceT5Encoder.from_file)

    def encode(self, hidden: Tensor, identity: Identity | None, strength: float = 1.0) -> Tensor:
        """T5's hidden states of one prompt [1, 512, 4096], with each person of `identity` -> embeddings, a row each.

        `at_work`. Raises ValueError.
        """
        result = self._encoder.encode(hidden, identity, strength=strength)
        return result.to(comfy.model_management.intermediate_device(), torch.float32)


def _require_filtered(images: Tensor) -> None:
    """Raise ValueError for values that no filter leaves: those of 0 to 255,
    or of -1 to 1, would come out all white or black."""
    if images.numel() and (images.min() < -_OVERSHOOT or images.max() > 1 + _OVERSHOOT):
        raise ValueError(
            f"Faces must be images with values from 0 to 1; found {images.min():.3g} to {images.max():.3g}. "
            "Connect the crops of Detect Faces, or bring the values into that range."
        )


def _default_dtype(path: Path, device: torch.device) -> torch.dtype:
    usual = comfy.model_management.text_encoder_dtype(device)
    keep = usual == torch.float16 and stored_dtype(path) == torch.bfloat16
    return torch.bfloat16 if keep else usual


def _handed_on(conditioning: Conditioning) -> Conditioning:
    """Where ComfyUI wants what goes from node to node."""
    device = comfy.model_management.intermediate_device()
    return Conditioning(conditioning.embeddings.to(device), conditioning.pooled.to(device), conditioning.prompts)


def _bytes_of(encoder: nn.Module) -> int:
    """Memory of the weights; a face tower that both branches share counts once."""
    return sum(t.numel() * t.element_size() for t in (*encoder.parameters(), *encoder.buffers()))
