"""Which photographs make good training tuples, and what one becomes:
photograph, aligned face, caption and measurements."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from faceclip.face import AlignedFace, Face, FaceDetector, FaceError, FaceQuality, align_face, assess
from faceclip.face.detect import detect_in_batch

from ..data.shards import Sample
from ..data.storage import read_bytes
from .photographs import AnimatedError, read_photo, to_jpeg
from .sources import Record

# A face of at least this part of the largest one's side is another person of the picture, not someone in its background.
SECOND_FACE = 0.5

Captioner = Callable[[Sequence[np.ndarray]], list[str]]
"""Photographs, each uint8 [H, W, 3] RGB, to a caption each."""


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
class Opened:
    """A record whose photograph could be read and whose caption, if it has one, is long enough."""

    record: Record
    stored: bytes
    photo: np.ndarray
    caption: str
    """Empty where a model is to write it."""
    measured: dict[str, float]


@dataclass
class Preparer:
    """Makes samples of records, several at a time. Holds a face detector and a captioner, so one is made in every
    worker."""

    filters: Filters
    detector: FaceDetector | None
    captioner: Captioner | None = None

    def __call__(self, record: Record) -> Sample:
        """
        Raises:
            DroppedError: the record does not pass the filters, or its photograph is broken.
        """
        (made,) = self.together([self.open(record)])
        if isinstance(made, DroppedError):
            raise made
        return made

    def open(self, record: Record) -> Opened:
        """Read a record's photograph. Raises DroppedError, for its caption, too, unless a model is to write that."""
        measured: dict[str, float] = {}
        try:
            data = record.photo if isinstance(record.photo, bytes) else read_bytes(record.photo)
            stored, photo = read_photo(data, record.key if isinstance(record.photo, bytes) else record.photo)
        except AnimatedError as error:
            raise DroppedError("animated picture", str(error), measured) from error
        except Exception as error:
            # Decoders raise anything on broken bytes (SyntaxError, struct.error, ...): one picture must not end the run.
            raise DroppedError("broken photograph", f"{type(error).__name__}: {error}", measured) from error
        side = min(photo.shape[:2])
        measured["photo"] = side
        if side < self.filters.min_side:
            raise DroppedError("small photograph", f"{photo.shape[1]} x {photo.shape[0]} px", measured)
        opened = Opened(record, stored, photo, record.caption or "", measured)
        if opened.caption or not self.captioner:
            self._require_words(opened)
        return opened

    def together(self, opened: Sequence[Opened]) -> list[Sample | DroppedError]:
        """What becomes of each: detector and captioner look at all photographs at once, the captioner at those alone
        whose face is good enough and that have no caption."""
        found = detect_in_batch(self.detector, [each.photo for each in opened]) if self.detector else [[]] * len(opened)
        made: list[Sample | DroppedError] = []
        for each, faces in zip(opened, found, strict=True):
            try:
                made.append(self._sample(each, faces))
            except DroppedError as dropped:
                made.append(dropped)
        silent = [place for place, sample in enumerate(made) if isinstance(sample, Sample) and not sample.caption]
        if silent and self.captioner:
            for place, text in zip(silent, self.captioner([opened[place].photo for place in silent]), strict=True):
                opened[place].caption = text
                made[place] = self._captioned(opened[place], made[place])
        return made

    def _captioned(self, opened: Opened, made: Any) -> Sample | DroppedError:
        try:
            self._require_words(opened)
        except DroppedError as dropped:
            return dropped
        return replace(made, caption=opened.caption)

    def _sample(self, opened: Opened, faces: list[Face]) -> Sample:
        record, photo = opened.record, opened.photo
        meta: dict[str, Any] = {"size": list(photo.shape[:2])}
        if record.identity is not None:
            meta |= {"identity": identity_label(record.identity), "person": record.identity}
        if record.word is not None:
            meta["class"] = record.word
        face = None
        if self.detector is not None:
            found, aligned, quality = self._portrait(opened, faces, self.detector.name)
            meta |= describe_face(found, quality)
            face = to_jpeg((aligned.image * 255).round().astype(np.uint8))
        return Sample(record.key, opened.stored, face, opened.caption, meta)

    def _require_words(self, opened: Opened) -> None:
        words = len(opened.caption.split())
        opened.measured["words"] = words
        if not words:
            raise DroppedError("no caption", "there is no text; add one, or name a --caption-model", opened.measured)
        if words < self.filters.min_words:
            raise DroppedError("short caption", f"{words} word(s): {opened.caption!r}", opened.measured)

    def _portrait(self, opened: Opened, faces: list[Face], detector: str) -> tuple[Face, AlignedFace, FaceQuality]:
        measured = opened.measured
        if not faces:
            raise DroppedError("no face", f"none found by {detector}", measured)
        people = sum(face.size >= SECOND_FACE * faces[0].size for face in faces)
        try:
            aligned = align_face(opened.photo, faces[0])
        except FaceError as error:
            raise DroppedError("no face", str(error), measured) from error
        quality = assess(aligned, faces[0])
        measured |= {"face": quality.size, "sharpness": quality.sharpness, "turn": quality.yaw}
        if people > self.filters.max_people:
            raise DroppedError("several people", f"{people} faces of a like size", measured)
        if quality.size < self.filters.min_face:
            raise DroppedError("small face", f"{quality.size:.0f} px", measured)
        if quality.sharpness < self.filters.min_sharpness:
            raise DroppedError("blurred face", f"sharpness {quality.sharpness:.3f}", measured)
        if abs(quality.yaw) > self.filters.max_turn:
            raise DroppedError("turned face", f"{quality.yaw:.0f} degrees", measured)
        return faces[0], aligned, quality


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
