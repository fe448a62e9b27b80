"""What the towers of a run start from, told and, at full size, refused
where nobody asked for it: a random tower teaches nothing.

A run on a random ArcFace goes through to its end, and only its result
shows what was forgotten at its beginning.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from .config import RANDOM, TowerConfig
from .towers import InitError

FULL_SIZE = "sdxl"
Config = TypeVar("Config", bound=TowerConfig)


def named_starts(config: Config, *, face: bool = True, text: bool = True) -> Config:
    """The configuration with `random` written out where the face or the text
    tower, as far as they are used, has no file.

    Raises InitError at full size unless `random` was asked for, and where
    one file would be passed over for another.
    """
    if config.init_encoder:
        if config.init_face:
            raise InitError(
                "--init-encoder and --init-face both name a face tower, and only one can be started from. Leave one of them out."
            )
        return config
    lacks_face, lacks_text = face and config.init_face is None, text and not config.init_clip
    if config.size == FULL_SIZE and lacks_face:
        raise InitError(
            "There is no face tower to start from: a random one knows nobody. Name InsightFace's ArcFace ViT with --init-face, "
            "or a FaceCLIP encoder with --init-encoder; docs/training.md has their addresses. If random weights are what you "
            "want, say so: --init-face random."
        )
    if config.size == FULL_SIZE and lacks_text:
        raise InitError(
            "There is no text tower to start from: a random one knows no words. Name a CLIP with --init-clip, or a FaceCLIP "
            "encoder with --init-encoder; docs/training.md has their addresses. If random weights are what you want, say so: "
            "--init-clip random."
        )
    named = replace(config, init_face=Path(RANDOM)) if lacks_face else config
    return replace(named, init_clip=RANDOM) if lacks_text else named


def told_starts(config: TowerConfig) -> str:
    """Where the towers come from, in a line for the user; of a configuration that `named_starts` gave."""
    seed = f"random, from seed {config.seed}"
    if config.init_encoder:
        text = face = str(config.init_encoder)
    else:
        text, face = config.clip_file or seed, str(config.face_file or seed)
    teacher = (
        f"{config.teacher} with {config.clip_file or 'random weights'}" if config.teacher else "none, its targets are cached"
    )
    return f"Face tower: {face}. Text tower: {text}. Image teacher: {teacher}."
