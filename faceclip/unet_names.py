"""The SDXL UNet in a file of weights, whatever a trainer wrapped around it."""

from __future__ import annotations

import logging
import re
from typing import Literal, NamedTuple

from .recognize import plain_names, recognize, unet_prefixes
from .tensor_entry import CheckpointError, TensorFile

logger = logging.getLogger(__name__)

V_PREDICTION, ZERO_TERMINAL_SNR = "v_pred", "ztsnr"
"""Empty tensors by which a file in ComfyUI's manner says what its UNet predicts."""


class Prediction(NamedTuple):
    """What a UNet was trained to predict: the noise or v; and whether its last timestep is pure noise."""

    kind: Literal["epsilon", "v"]
    zero_terminal_snr: bool = False


def prediction_in(file: TensorFile) -> Prediction | None:
    """What a file says that its UNet predicts: by the metadata that training writes, or by markers.

    None if it says nothing.

    Raises CheckpointError for a prediction of another kind.
    """
    kind = file.metadata.get("prediction")
    if kind in ("epsilon", "v"):
        return Prediction(kind, kind == "v" and file.metadata.get("zero_terminal_snr") == "true")
    if kind is not None:
        raise CheckpointError(f"{file.path} says that its UNet predicts {kind[:40]!r}. Known here are epsilon and v.")
    return Prediction("v", ZERO_TERMINAL_SNR in file.entries) if V_PREDICTION in file.entries else None


def unet_in(file: TensorFile) -> TensorFile:
    """The UNet's own tensors under its own names, in diffusers' or the core's naming.

    Of a checkpoint with the averaged weights of training (`ema`) beside the others, those. Raises CheckpointError
    for a file without an SDXL UNet, saying what it looks like, and for one with several.
    """
    plain = plain_names(file.entries)
    names = list(plain.values())
    prefixes = unet_prefixes(names)
    if not prefixes:
        raise CheckpointError(f"{file.path} has no SDXL UNet in it: it looks like this: {recognize(file.entries)}")
    averaged = [prefix for prefix in prefixes if re.search(r"(^|[._])ema([._]|$)", prefix)]
    chosen = averaged if len(prefixes) > 1 and averaged else prefixes
    if len(chosen) > 1:
        raise CheckpointError(
            f"{file.path} holds several SDXL UNets, under the names {', '.join(repr(prefix) for prefix in chosen)}. Save one of "
            "them in a file of its own."
        )
    if len(prefixes) > 1:
        logger.warning("%s holds several UNets; the averaged weights (%s) are taken.", file.path, chosen[0])
    return file.under(chosen[0], plain)
