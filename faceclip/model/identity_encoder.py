"""What reads faces, in FaceCLIP as in FaceT5: aligned crops to an `Identity`, by one or more face towers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..config import FaceTowerConfig
from ..identity import Identity
from .face_tower import FaceTower

FACE_SIZE = 448
_SIGNATURE_SAMPLES = 64


class IdentityEncoder(nn.Module):
    """An encoder with face towers.

    Computes in `compute_dtype`, whatever dtype the weights are kept in,
    and on `compute_device`: by default, where they are.
    """

    def __init__(self):
        super().__init__()
        self.compute_dtype = torch.float32
        self.compute_device: torch.device | None = None  # where to compute when the weights may live elsewhere
        self._blank: Identity | None = None

    def adopt(self, tensors: Mapping[str, Tensor], compute_dtype: torch.dtype) -> None:
        """Take over weights as they are; from then on in eval mode and without gradients."""
        self.load_state_dict(tensors, assign=True)
        self.compute_dtype = compute_dtype
        self.train(False).requires_grad_(False)

    @property
    def face_towers(self) -> list[FaceTower]:
        """The distinct face towers."""
        raise NotImplementedError

    @property
    def joint_layers(self) -> list[nn.Module]:
        """The layers that run once per batch of prompts, nearly in order."""
        raise NotImplementedError

    @property
    def face_layers(self) -> list[nn.Module]:
        """The layers that run once per batch of faces, for whoever wants to look up in between (see `joint_layers`)."""
        return [block for tower in self.face_towers for block in tower.blocks]

    @property
    def device(self) -> torch.device:
        return self.compute_device or next(self.parameters()).device

    def signature(self) -> Tensor:
        """[F, 64] fp32: evenly spaced samples of each face tower's weights.

        Tells identities of different encoders apart.
        """
        weights = [tower.get_parameter("blocks.0.attn.qkv.weight").detach().flatten() for tower in self.face_towers]
        return torch.stack([w[:: len(w) // _SIGNATURE_SAMPLES][:_SIGNATURE_SAMPLES].float().cpu() for w in weights])

    @torch.no_grad()
    def encode_faces(self, faces: Tensor) -> Identity:
        """`faces` [B, 3, 448, 448], RGB in [0, 1], aligned to ArcFace's template -> Identity of B people.

        A black crop means "no face": its row will condition like text alone.
        Raises ValueError for other shapes or ranges.
        """
        _check_faces(faces)
        faces = faces.to(self.device, self.compute_dtype)
        class_tokens, patch_tokens = zip(*(tower(faces) for tower in self.face_towers), strict=True)
        identity = Identity(
            class_token=torch.stack(class_tokens, dim=1),
            patch_tokens=torch.stack(patch_tokens, dim=1),
            present=faces.flatten(1).any(dim=1),
            signature=self.signature(),
        )
        identity.require_sound()
        return identity

    def require_fit(self, identity: Identity, face: FaceTowerConfig) -> None:
        """Raise ValueError unless an identity's features have the shapes that
        this encoder's towers, of shape `face`, give."""
        towers, found = len(self.face_towers), (*identity.class_token.shape[1:], *identity.patch_tokens.shape[1:])
        expected = (towers, identity.class_token.shape[2] and face.classes, towers, face.grid**2, face.width)
        if found != expected:
            raise ValueError(
                f"This identity does not fit the encoder: its class tokens are {list(found[:2])} and its patch tokens "
                f"{list(found[2:])} for each person, the encoder takes {list(expected[:2])} and {list(expected[2:])}. "
                "Encode the face again with the encoder that is loaded now (Encode Identity)."
            )

    def blank_face(self) -> Identity:
        """The identity of a black crop, which stands for "no face"; the tower runs once for it, not per prompt."""
        blank = self._blank
        fits = blank is not None and blank.signature is not None and torch.equal(blank.signature, self.signature())
        if blank is None or not fits or blank.patch_tokens.dtype != self.compute_dtype:
            blank = self._blank = self.encode_faces(torch.zeros(1, 3, FACE_SIZE, FACE_SIZE)).to("cpu")
        return blank


def require_strength(strength: float) -> None:
    """Raise ValueError for NaN and infinity."""
    if not math.isfinite(strength):
        raise ValueError(f"The strength is {strength}; it is a number, 0 for text alone, 1 for the model as trained.")


def require_finite(*results: Tensor) -> None:
    """Raise ValueError where conditioning holds NaN or infinity."""
    if not all(result.isfinite().all() for result in results):
        raise ValueError(
            "The conditioning holds values that are not finite numbers and would make black pictures: the strength or a weight "
            "in the prompt is far too large, or the encoder's file is damaged."
        )


def _check_faces(faces: Tensor) -> None:
    if faces.ndim != 4 or faces.shape[1:] != (3, FACE_SIZE, FACE_SIZE):
        raise ValueError(
            f"Faces must be aligned crops of shape [B, 3, 448, 448]; found {list(faces.shape)}. "
            "Detect and align the photo first; resizing it to 448 x 448 is not enough for a likeness."
        )
    if len(faces) == 0:
        raise ValueError(
            "There is no face to encode: the batch is empty. If Detect Faces skipped every photo, look at its preview: "
            "use a larger, sharper photo from the front, lower min_confidence or index, or set on_no_face to 'text only'."
        )
    # Written so that NaN, which no comparison holds for, is refused as well.
    if not faces.is_floating_point() or not (faces.min() >= -1e-3 and faces.max() <= 1 + 1e-3):
        raise ValueError(
            f"Faces must be RGB in [0, 1] as floating point; found {faces.dtype} in [{faces.min():.3g}, {faces.max():.3g}]."
        )
