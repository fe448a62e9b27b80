"""What the UNet makes while it is trained: the same people and prompts every time, drawn as one grid and judged.

Nothing of the run changes by it: no weight, and no random number that training draws.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from faceclip import FaceCLIPEncoder, Identity
from faceclip.face import DetectorUnavailableError, FaceJudge, NoFaceError, load_judge
from faceclip.face.sheet import wrapped
from faceclip.face.similarity import reference_embedding
from faceclip.metrics import face_vectors, likeness, own_scores
from faceclip.pipeline import FaceCLIPPipeline
from faceclip.sdxl_files import sdxl_pipeline

from ..data.decode import decode_pixels, face_pixels
from ..data.shards import Sample
from ..run.config import ConfigError
from ..run.ranks import Ranks
from .config import FinetuneConfig
from .diffusion import NoiseSchedule
from .held_out import HeldOutLoss

logger = logging.getLogger(__name__)

AT_ONCE = 4
"""Pictures that a rank makes at a time."""
CELL = 320
"""Side of a picture in the grid, in pixels."""
_GAP, _HEAD, _LETTERS = 8, 64, 18
_PAPER, _INK = (250, 250, 250), (20, 20, 20)


class Person(NamedTuple):
    """Someone whom the run is not trained on."""

    crop: np.ndarray
    """uint8 [448, 448, 3], aligned."""
    photo: np.ndarray
    """uint8 [H, W, 3]."""


def people_among(samples: Sequence[Sample], most: int) -> list[Person]:
    """The first `most` people whom the samples show, each by the first sample with a face.

    Raises ConfigError where none shows a face.
    """
    found: dict[str, Sample] = {}
    for sample in samples:
        if sample.face is not None:
            found.setdefault(sample.key if sample.identity < 0 else str(sample.identity), sample)
    if not found:
        raise ConfigError("No held-out row shows a face. Hold out more rows (--held-out-rows), or other shards.")
    return [
        Person(face_pixels(sample.face).transpose(1, 2, 0), decode_pixels(sample.image, "photograph"))
        for sample in list(found.values())[:most]
    ]


class Look:
    """Every person with every prompt, always from the same noise; and the loss on held-out rows."""

    def __init__(
        self,
        config: FinetuneConfig,
        ranks: Ranks,
        pipeline: FaceCLIPPipeline,
        people: Sequence[Person],
        loss: HeldOutLoss,
        judge: FaceJudge | None = None,
    ):
        """
        Args:
            pipeline: around the very UNet that is trained.
            judge: of the pictures' likeness; the same on all ranks.
        """
        self.config = config
        self.ranks = ranks
        self.pipeline = pipeline
        self.people = people
        self._loss = loss
        self._judge = judge
        self._cells = [(person, prompt) for person in range(len(people)) for prompt in range(len(config.look_prompts))]
        self._references: list[np.ndarray | None] | None = None

    def __call__(self, step: int) -> dict[str, float | Path]:
        """Measure, and write `looks/step-N.png`; collective. Rank 0 has the result, the others nothing.

        `held_out_loss` of `HeldOutLoss`; `face_similarity`, the judge's cosine of a picture's face with the person's
        photograph, its mean over the pictures with a face; `face_similarity_of_others`, the same with the other
        people's; `faces_found`, the share of the pictures with a face; `grid`, the file.
        """
        unet = self.pipeline.sdxl.unet
        devices = [self.ranks.device] if self.ranks.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            unet.eval()
            try:
                measured: dict[str, float | Path] = {**self._loss.measure(unet, self.ranks)}
                found = self.ranks.deal(self._cells, self._make)
            finally:
                unet.train()
        if not self.ranks.is_main:
            return {}
        measured |= self._likeness([vectors for _, vectors in found])
        rows = [[found[number][0] for number, (person, _) in enumerate(self._cells) if person == each] for each in self._each()]
        path = self.config.out / "looks" / f"step-{step:08d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_grid([person.crop for person in self.people], self.config.look_prompts, rows)).save(path)
        return {**measured, "grid": path}

    def _each(self) -> range:
        return range(len(self.people))

    def _make(self, cells: Sequence[tuple[int, int]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """This rank's pictures at the grid's size, and the judge's vectors [F, D] of the faces in each as it was made."""
        made: list[np.ndarray] = []
        for start in range(0, len(cells), AT_ONCE):
            made += self._sample(cells[start : start + AT_ONCE])
        vectors = face_vectors(self._judge, made) if self._judge else [np.zeros((0, 0), np.float32)] * len(made)
        return [(_fit(picture), each) for picture, each in zip(made, vectors, strict=True)]

    def _sample(self, cells: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        config = self.config
        crops = torch.stack([torch.from_numpy(self.people[person].crop).permute(2, 0, 1) for person, _ in cells])
        faces: Identity = self.pipeline.encoder.encode_faces(crops.to(self.ranks.device).float() / 255)
        pictures = self.pipeline(
            [config.look_prompts[prompt] for _, prompt in cells],
            faces,
            width=config.resolution,
            height=config.resolution,
            steps=config.look_steps,
            guidance=config.look_guidance,
            seed=[person * len(config.look_prompts) + prompt for person, prompt in cells],
        )
        return [np.array(picture) for picture in pictures]

    def _likeness(self, faces: Sequence[np.ndarray]) -> dict[str, float]:
        if not self._judge:
            return {}
        if self._references is None:
            self._references = [_reference(self._judge, person.photo) for person in self.people]
        references = self._references
        known = [number for number, reference in enumerate(references) if reference is not None]
        places = [place for place, (person, _) in enumerate(self._cells) if person in known]
        if not places:
            return {}
        shown = [faces[place] for place in places]
        person = [known.index(self._cells[place][0]) for place in places]
        scores = likeness(shown, np.stack([vector for vector in references if vector is not None]))
        seen = np.array([len(vectors) > 0 for vectors in shown])
        measured = {"faces_found": float(seen.mean())}
        if seen.any():
            measured["face_similarity"] = float(own_scores(scores, person)[seen].mean())
            if len(known) > 1:
                others = np.ones_like(scores, dtype=bool)
                others[np.arange(len(person)), person] = False
                measured["face_similarity_of_others"] = float(scores[seen][others[seen]].mean())
        return measured


def find_judge(config: FinetuneConfig, ranks: Ranks) -> FaceJudge | None:
    """The judge that the configuration names; for `auto` none where none is installed on every rank, which is told.

    Collective. Raises ConfigError for one that is named and missing.
    """
    judge, missing = None, ""
    if config.look_judge != "none":
        try:
            judge = load_judge(config.look_judge, device=ranks.device)
        except DetectorUnavailableError as error:
            if config.look_judge != "auto":
                raise ConfigError(f"{error} Or give --look-judge none.") from error
            missing = str(error)
    if any(ranks.any(bool(missing))):
        if ranks.is_main:
            logger.warning("The grid's face similarity is not measured. %s", missing or "A rank has no judge.")
        return None
    return judge


def look_pipeline(
    unet: Any, vae: Any, encoder: FaceCLIPEncoder, schedule: NoiseSchedule, device: torch.device
) -> FaceCLIPPipeline:
    """diffusers' own sampling around the UNet that is trained."""
    sdxl = sdxl_pipeline(unet, vae, schedule.scheduler())
    sdxl.set_progress_bar_config(disable=True)
    return FaceCLIPPipeline(encoder, sdxl, device)


def draw_grid(crops: Sequence[np.ndarray], prompts: Sequence[str], pictures: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """A row for each person: the crop, then the picture of each prompt, whose words stand above. uint8 [H, W, 3]."""
    side = CELL + _GAP
    paper = Image.new("RGB", ((1 + len(prompts)) * side + _GAP, _HEAD + len(crops) * side), _PAPER)
    pen, font = ImageDraw.Draw(paper), ImageFont.load_default(size=_LETTERS)
    for column, words in enumerate(["reference", *prompts]):
        pen.multiline_text((_GAP + column * side, _GAP), _two_lines(words, font), font=font, fill=_INK)
    for number, (crop, row) in enumerate(zip(crops, pictures, strict=True)):
        for column, picture in enumerate([crop, *row]):
            paper.paste(Image.fromarray(_fit(picture)), (_GAP + column * side, _HEAD + number * side))
    return np.array(paper)


def _two_lines(words: str, font: Any) -> str:
    """What fits into two lines of a cell's width; what is beyond ends in an ellipsis."""
    lines = wrapped(words, font, CELL)
    return "\n".join(lines) if len(lines) <= 2 else f"{lines[0]}\n{lines[1]} …"


def _fit(picture: np.ndarray) -> np.ndarray:
    """At the size of a cell, uint8 [CELL, CELL, 3]."""
    if picture.shape[:2] == (CELL, CELL):
        return picture
    return np.array(Image.fromarray(picture).resize((CELL, CELL), Image.Resampling.LANCZOS))


def _reference(judge: FaceJudge, photo: np.ndarray) -> np.ndarray | None:
    """None where the judge finds no face in the photograph."""
    try:
        return reference_embedding(judge, [photo])
    except NoFaceError:
        return None
