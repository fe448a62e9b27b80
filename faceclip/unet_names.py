"""The SDXL UNet in a file of weights, whatever a trainer wrapped around it."""

from __future__ import annotations

import logging
import re

from .recognize import plain_names, recognize, unet_prefixes
from .tensor_entry import CheckpointError, TensorFile

logger = logging.getLogger(__name__)


def unet_in(file: TensorFile) -> TensorFile:
    """The UNet's own tensors under its own names, in diffusers' or the core's naming.

    Of a checkpoint with the averaged weights of training (`ema`) beside the others, those. Raises CheckpointError for a file
    without an SDXL UNet, saying what it looks like, and for one with several.
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
