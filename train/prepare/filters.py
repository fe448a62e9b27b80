"""Which photographs make good training tuples, and what one becomes:
photograph, aligned face, caption and measurements."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from faceclip.face import AlignedFace, Face, FaceDetector, FaceError, FaceQuality, align_face, assess, detect_faces

from ..data.shards import Sample
from ..data.storage import read_bytes
from .photographs import AnimatedError, read_photo, to_jpeg
from .sources import Record

# A face of at least this part of the largest one's side is another person of the picture, not someone in its background.
SECOND_FACE = 0.5

Captioner = Callable[[np.ndarray], str]
"""uint8 [H, W, 3] RGB to a caption."""


@dataclass(frozen=True)
class Filters:
    """What a photograph must be like to be kept."""

    min_side: int = 256
    """Least shorter side of the photograph, in pixels."""
    min_face: int = 80
    """Least longer side of the face's box, in pixels; the face tower sees 112."""
    min_sharpness: float = 0.03
    """Least sharpness of the face (`faceclip.face.FaceQuality`); under 0.03 likeness is lost to blur."""
    max_turn: float = 60.0
    """Largest turn of the head to either side, in degrees."""
    max_people: int = 1
    """Most faces of at least half the largest one's side."""
    min_words: int = 3
    """Least number of words of the caption."""
    faces: bool = True
    """Look for faces. Without, the shards are guided image-text pairs."""

    @property
    def limits(self) -> dict[str, tuple[float, ...]]:
        """Where they cut, by the names of `train.prepare.report.MEASURES`."""
        ours: dict[str, tuple[float, ...]] = {"photo": (self.min_side,), "words": (self.min_words,)}
        if self.faces:
            turn = (-self.max_turn, self.max_turn)
            ours |= {"face": (self.min_face,), "sharpness": (self.min_sharpness,), "turn": turn}
        return ours


class DroppedError(Exception):
    """A record that is left out: why, in the report's terms, what was found, and what was measured until then."""

    def __init__(self, reason: str, detail: str, measured: dict[str, float]):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.measured = reason, detail, measured


@dataclass
class Preparer:
    """Makes samples of records. Holds a face detector, so one is made in every worker."""

    filters: Filters
    detector: FaceDetector | None
    captioner: Captioner | None = None
    measured: dict[str, float] = field(default_factory=dict)
    """What was measured on the last record."""

    def __call__(self, record: Record) -> Sample:
        """
        Raises:
            DroppedError: the record does not pass the filters, or its photograph is broken.
        """
        self.measured = {}
        stored, photo = self._read(record)
        caption = self._caption(record, photo)
        meta: dict[str, Any] = {"size": list(photo.shape[:2])}
        if record.identity is not None:
            meta |= {"identity": identity_label(record.identity), "person": record.identity}
        if record.word is not None:
            meta["class"] = record.word
        face = None
        if self.detector is not None:
            found, aligned, quality = self._portrait(photo, self.detector)
            meta |= describe_face(found, quality)
            face = to_jpeg((aligned.image * 255).round().astype(np.uint8))
        return Sample(record.key, stored, face, caption, meta)

    def _read(self, record: Record) -> tuple[bytes, np.ndarray]:
        try:
            data = record.photo if isinstance(record.photo, bytes) else read_bytes(record.photo)
            stored, photo = read_photo(data, record.key if isinstance(record.photo, bytes) else record.photo)
        except AnimatedError as error:
            raise self._dropped("animated picture", str(error)) from error
        except Exception as error:
            # Decoders raise anything on broken bytes (SyntaxError, struct.error, ...): one picture must not end the run.
            raise self._dropped("broken photograph", f"{type(error).__name__}: {error}") from error
        side = min(photo.shape[:2])
        self.measured["photo"] = side
        if side < self.filters.min_side:
            raise self._dropped("small photograph", f"{photo.shape[1]} x {photo.shape[0]} px")
        return stored, photo

    def _caption(self, record: Record, photo: np.ndarray) -> str:
        caption = record.caption or (self.captioner(photo) if self.captioner else "")
        words = len(caption.split())
        self.measured["words"] = words
        if not words:
            raise self._dropped("no caption", "there is no text; add one, or name a --caption-model")
        if words < self.filters.min_words:
            raise self._dropped("short caption", f"{words} word(s): {caption!r}")
        return caption

    def _portrait(self, photo: np.ndarray, detector: FaceDetector) -> tuple[Face, AlignedFace, FaceQuality]:
        faces = detect_faces(detector, photo)
        if not faces:
            raise self._dropped("no face", f"none found by {detector.name}")
        people = sum(face.size >= SECOND_FACE * faces[0].size for face in faces)
        try:
            aligned = align_face(photo, faces[0])
        except FaceError as error:
            raise self._dropped("no face", str(error)) from error
        quality = assess(aligned, faces[0])
        self.measured |= {"face": quality.size, "sharpness": quality.sharpness, "turn": quality.yaw}
        if people > self.filters.max_people:
            raise self._dropped("several people", f"{people} faces of a like size")
        if quality.size < self.filters.min_face:
            raise self._dropped("small face", f"{quality.size:.0f} px")
        if quality.sharpness < self.filters.min_sharpness:
            raise self._dropped("blurred face", f"sharpness {quality.sharpness:.3f}")
        if abs(quality.yaw) > self.filters.max_turn:
            raise self._dropped("turned face", f"{quality.yaw:.0f} degrees")
        return faces[0], aligned, quality

    def _dropped(self, reason: str, detail: str) -> DroppedError:
        return DroppedError(reason, detail, self.measured)


def describe_face(face: Face, quality: FaceQuality) -> dict[str, Any]:
    """What a shard's `json` keeps of a face, in pixels of the photograph."""
    return {
        "box": [round(float(value), 2) for value in face.box],
        "landmarks": [[round(float(x), 2), round(float(y), 2)] for x, y in face.landmarks],
        "landmark_kind": face.landmark_kind,
        "confidence": round(float(face.confidence), 4),
        "quality": {
            "size": round(float(quality.size), 1),
            "sharpness": round(float(quality.sharpness), 4),
            "yaw": round(float(quality.yaw), 1),
        },
    }


def identity_label(person: str) -> int:
    """A number for a person's name or number, the same in every shard and data set: 63 bits of its SHA-256.

    Two people of ten million share one with a chance of 5 in a million.
    """
    return int.from_bytes(hashlib.sha256(person.encode()).digest()[:8], "big") >> 1
