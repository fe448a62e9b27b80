"""Who a person is: 24 continuous latent factors, and the measures and colours of the face that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .canvas import between

LATENTS = (
    "face_width",
    "face_length",
    "jaw",
    "cheeks",
    "eye_size",
    "eye_spacing",
    "eye_slant",
    "eye_colour",
    "brow_thickness",
    "brow_angle",
    "nose_length",
    "nose_width",
    "mouth_width",
    "lip_fullness",
    "skin_tone",
    "skin_warmth",
    "hair_darkness",
    "hair_redness",
    "hair_length",
    "hair_volume",
    "hairline",
    "curl",
    "beard",
    "marks",
)
"""Names of the latent factors, each in [-1, 1]. Everything that tells two people apart follows from them."""

_SKIN = [(0.97, 0.82, 0.72), (0.93, 0.73, 0.60), (0.84, 0.62, 0.46), (0.66, 0.46, 0.33), (0.45, 0.30, 0.22)]
_IRIS = [(0.26, 0.14, 0.07), (0.46, 0.30, 0.12), (0.26, 0.47, 0.24), (0.20, 0.44, 0.70), (0.52, 0.60, 0.66)]
_ASH = [(0.93, 0.90, 0.84), (0.85, 0.72, 0.45), (0.55, 0.42, 0.28), (0.27, 0.19, 0.13), (0.07, 0.06, 0.07)]
_RED = [(0.95, 0.70, 0.38), (0.82, 0.44, 0.16), (0.60, 0.22, 0.08), (0.34, 0.11, 0.06), (0.14, 0.05, 0.05)]


@dataclass(frozen=True, eq=False)
class Person:
    """One person of a world."""

    number: int
    latents: np.ndarray
    """float64 [24] in [-1, 1], named by LATENTS."""

    def __getitem__(self, name: str) -> float:
        return float(self.latents[LATENTS.index(name)])


@dataclass(frozen=True, eq=False)
class Looks:
    """A face in the head's own coordinates: origin between the ears, x to the picture's right, y down, z to the
    viewer; the unit is half an average head's height. Colours are float [3] in [0, 1]."""

    half_width: float
    chin: float
    jaw: float
    """0 pointed to 1 square."""
    cheeks: float
    eye_x: float
    eye_y: float
    eye_size: float
    eye_slant: float
    brow_thickness: float
    brow_angle: float
    nose_tip: float
    nose_width: float
    mouth_y: float
    mouth_width: float
    lips: float
    """Half the thickness of the closed mouth."""
    skin: np.ndarray
    lip_colour: np.ndarray
    iris: np.ndarray
    hair: np.ndarray
    hair_length: float
    """How far down hair reaches; below the top of the head there is none."""
    hair_volume: float
    hairline: float
    """Height of the hairline on the forehead."""
    parting: float
    """Where hair parts, -1 to 1 from side to side."""
    curl: float
    beard: float
    """0 none to 1 full."""
    freckles: float
    mole: float
    """0 none to 1 dark."""
    mole_at: tuple[float, float]


def looks(person: Person) -> Looks:
    """What a person's latent factors come to."""
    z = dict(zip(LATENTS, person.latents.tolist(), strict=True))
    skin = between(_SKIN, 0.5 + 0.5 * z["skin_tone"])
    skin = np.clip(skin * (1 + z["skin_warmth"] * np.array([0.03, -0.02, -0.11])), 0, 1).astype(np.float32)
    ash, red = (between(stops, 0.5 + 0.5 * z["hair_darkness"]) for stops in (_ASH, _RED))
    hair = ash + _positive(z["hair_redness"], 0.1) * (red - ash)
    chin = 1.0 + 0.13 * z["face_length"]
    nose_tip = 0.315 + 0.065 * z["nose_length"] + 0.04 * z["face_length"]
    # Continuous, and as wide open as eyes can judge: bald, cropped, ear-long, chin-long, below the shoulders.
    length = z["hair_length"]
    wide = 0.70 + 0.09 * z["face_width"]
    return Looks(
        half_width=wide,
        chin=chin,
        jaw=0.5 + 0.5 * z["jaw"],
        cheeks=z["cheeks"],
        eye_x=0.285 + 0.045 * z["eye_spacing"] + 0.015 * z["face_width"],
        eye_y=0.0,
        eye_size=0.165 + 0.035 * z["eye_size"],
        eye_slant=0.20 * z["eye_slant"],
        brow_thickness=0.036 + 0.022 * z["brow_thickness"],
        brow_angle=0.05 + 0.17 * z["brow_angle"],
        nose_tip=nose_tip,
        nose_width=0.125 + 0.045 * z["nose_width"],
        mouth_y=0.5 * (nose_tip + chin) - 0.04,
        mouth_width=0.235 + 0.055 * z["mouth_width"],
        lips=0.055 + 0.028 * z["lip_fullness"],
        skin=skin,
        lip_colour=np.clip(skin * np.array([0.86, 0.52, 0.52]) + np.array([0.05, 0.0, 0.01]), 0, 1).astype(np.float32),
        iris=between(_IRIS, 0.5 + 0.5 * z["eye_colour"]),
        hair=np.clip(hair, 0, 1),
        hair_length=float(np.interp(length, [-1, -0.85, -0.4, 0.0, 0.5, 1.0], [-1.2, -0.35, 0.05, 0.25, 1.1, 2.2])),
        hair_volume=0.11 + 0.06 * z["hair_volume"] + 0.09 * _positive(z["hair_volume"], 0.3),
        hairline=-0.50 - 0.20 * z["hairline"],
        parting=float(np.sin(2.5 * z["hairline"] + 4.0 * z["hair_redness"])),
        curl=0.5 + 0.5 * z["curl"],
        beard=_positive(z["beard"], 0.15),
        freckles=_positive(-z["marks"], 0.25),
        mole=min(1.0, 3 * _positive(z["marks"], 0.2)),
        mole_at=_mole(z["marks"]),
    )


TRAITS = (*LATENTS, "full beard", "freckles", "mole", "mole across", "mole down")
"""Names of what `traits` tells."""


def traits(person: Person) -> np.ndarray:
    """float64 [29]: the latent factors, and what a face shows of two of them but no linear function of them tells."""
    seen = looks(person)
    across, down = seen.mole_at
    return np.array([*person.latents, seen.beard, seen.freckles, seen.mole, seen.mole * across, seen.mole * down])


def _positive(value: float, start: float) -> float:
    """0 up to `start`, then evenly up to 1 at 1."""
    return max(0.0, (value - start) / (1 - start))


def _mole(value: float) -> tuple[float, float]:
    """Around the middle of the face, by the value that also says how dark it is."""
    angle = 2 * np.pi * 1.25 * value
    return float(0.36 * np.cos(angle)), float(0.42 + 0.25 * np.sin(angle))
