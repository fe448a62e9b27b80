"""Make a protocol's pictures: `python -m train.generate TODO.csv --encoder E --unet U --vae V --out FOLDER`.

The models are loaded once for all rows, which `python -m train.evaluate list` writes. Under torchrun the
ranks share the rows. Pictures that are there are kept, so that the same command goes on where it was stopped.
A picture depends on its row's seed alone, not on its place in a batch or on its rank (up to rounding).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from PIL import Image
from tqdm import tqdm

from faceclip import Identity
from faceclip.face import (
    DetectorUnavailableError,
    FaceChoice,
    FaceDetector,
    NoFaceError,
    faces_from_images,
    load_detector,
    load_photo,
)
from faceclip.face.detect import Backend
from faceclip.pipeline import FaceCLIPPipeline
from faceclip.prompt import NEGATIVE_PROMPT
from faceclip.sdxl_files import SDXL_BASE

from ..data.storage import publishing
from ..evaluate.protocol import EvaluationProtocol, ProtocolError, Row, load_protocol
from ..run.command_line import run_command
from ..run.config import DTYPES
from ..run.ranks import Ranks, distributed


@dataclass(frozen=True)
class GenerateCommand:
    """Make the pictures that a protocol lists, many per load of the models."""

    protocol: tyro.conf.Positional[str]
    """A .csv with the columns image, reference, prompt and seed, or a protocol's name or .yaml with --faces."""
    encoder: Path
    """A FaceCLIP encoder's file."""
    unet: Path
    """Its UNet: a file, or a diffusers folder such as RUN/unet."""
    out: Path
    """Folder of the pictures, each under its row's name."""
    vae: Path | None = None
    """A VAE's file or folder, such as sdxl_vae.safetensors."""
    base: str = SDXL_BASE
    """Without --vae: SDXL base in diffusers' layout."""
    faces: Path | None = None
    """As for `train.evaluate`: folder of people, or the folder that a .csv's references are below."""
    negative: str = NEGATIVE_PROMPT
    width: int = 864
    """Pixels."""
    height: int = 1152
    steps: int = 50
    guidance: float = 5.0
    strength: float = 1.0
    seed: int = 0
    """Of rows that have none of their own."""
    batch_size: int = 4
    """Pictures that are made at once."""
    detector: Backend = "auto"
    dtype: str = ""
    """fp32 or bf16; by default bf16 on a GPU."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 when finished, 1 for an error that it explains."""
    return run_command(lambda: _run(argv), DetectorUnavailableError, OSError)


def _run(argv: Sequence[str] | None) -> None:
    command = tyro.cli(GenerateCommand, args=argv, prog="python -m train.generate")
    with distributed() as ranks:
        generate(command, ranks)


def generate(command: GenerateCommand, ranks: Ranks) -> None:
    """Make this rank's share of the pictures that are missing.

    Raises:
        ProtocolError: a protocol that cannot be used, a name that leads out
            of the folder, a reference without a face.
        CheckpointError: of the models' files.
    """
    if command.batch_size < 1 or command.dtype not in ("", *DTYPES):
        raise ProtocolError("--batch-size is 1 or more, and --dtype one of fp32 and bf16.")
    protocol = load_protocol(command.protocol, command.faces)
    _require_names(protocol)
    missing = ranks.broadcast([number for number, row in enumerate(protocol.rows) if not _target(command, row).is_file()])
    if ranks.is_main:
        print(f"{len(protocol.rows) - len(missing):,} of {len(protocol.rows):,} pictures are there; {len(missing):,} to make.")
    rows = [protocol.rows[number] for number in ranks.share(missing)]
    if not rows:
        return
    pipeline = FaceCLIPPipeline.from_files(
        command.encoder, command.unet, command.base, vae=command.vae, device=ranks.device, dtype=DTYPES.get(command.dtype)
    )
    pipeline.sdxl.set_progress_bar_config(disable=True)
    identities: dict[Path, Identity] = {}
    detector = load_detector(command.detector) if any(row.reference for row in rows) else None
    with tqdm(total=len(rows), unit=" pictures", disable=not ranks.is_main) as bar:
        for batch in _batches(rows, command.batch_size):
            for picture, row in zip(_make(command, pipeline, detector, identities, batch), batch, strict=True):
                _write(picture, _target(command, row))
            bar.update(len(batch))


def _make(
    command: GenerateCommand,
    pipeline: FaceCLIPPipeline,
    detector: FaceDetector | None,
    identities: dict[Path, Identity],
    rows: Sequence[Row],
) -> list[Any]:
    """The pictures of some rows, all with a person or all without."""
    people = []
    for row in rows:
        if row.reference is None or detector is None:
            continue
        if row.reference not in identities:
            identities[row.reference] = pipeline.encoder.encode_faces(_crop(row.reference, detector))
        people.append(identities[row.reference])
    return pipeline(
        [row.prompt for row in rows],
        Identity.cat(people) if people else None,
        negative_prompt=command.negative,
        width=command.width,
        height=command.height,
        steps=command.steps,
        guidance=command.guidance,
        seed=[command.seed if row.seed is None else row.seed for row in rows],
        strength=command.strength,
    )


def _crop(reference: Path, detector: FaceDetector) -> torch.Tensor:
    """The largest face, aligned: [1, 3, 448, 448]."""
    photo = torch.from_numpy(load_photo(reference))[None].float() / 255
    try:
        return faces_from_images(photo, detector, FaceChoice()).aligned.permute(0, 3, 1, 2)
    except NoFaceError as error:
        raise ProtocolError(f"No face is found in the reference {reference}. Use a clearer photo.") from error


def _batches(rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    """The rows in their order, those with a person apart from those without."""
    for kind in (True, False):
        own = [row for row in rows if (row.reference is not None) == kind]
        yield from (own[start : start + size] for start in range(0, len(own), size))


def _target(command: GenerateCommand, row: Row) -> Path:
    return command.out / row.image


def _require_names(protocol: EvaluationProtocol) -> None:
    known = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.SAVE}
    for row in protocol.rows:
        path = Path(row.image)
        if path.is_absolute() or ".." in path.parts or path.suffix.lower() not in known:
            raise ProtocolError(
                f"The image {row.image!r} cannot be written: it has to be a file name with an ending such as .png, below --out."
            )


def _write(picture: Any, path: Path) -> None:
    """Whole or not at all: a picture that is there is never made again."""
    with publishing(str(path)) as file:
        picture.save(file, Image.registered_extensions()[path.suffix.lower()])
