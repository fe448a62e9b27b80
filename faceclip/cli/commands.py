"""The command line: `faceclip convert | detect | encode | generate | similarity | download`.

What a user can put right ends in one line on stderr and exit code 2; anything else keeps its traceback.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from PIL import Image
from torch import Tensor

from .. import hub
from ..download.errors import DownloadError
from ..download.models_folder import NoModelsFolderError
from ..face import (
    CROP_SIZE,
    DetectorUnavailableError,
    FaceDetector,
    FaceError,
    align_face,
    assess,
    detect_faces,
    load_detector,
    load_judge,
    load_photo,
)
from ..face.similarity import Judge
from ..identity import Identity
from ..model.encoder import FaceCLIPEncoder
from ..pipeline import FaceCLIPPipeline, PipelineUnavailableError, default_dtype
from ..prompt import NEGATIVE_PROMPT, LongPrompts
from ..sdxl_files import SDXL_BASE
from ..tensor_file import CheckpointError, write_safetensors
from .download import add_download
from .options import (
    CONVERT_DTYPES,
    DTYPES,
    add_detector_options,
    add_encoder_options,
    at_least_one,
    multiple_of_8,
    not_negative,
    picture_path,
    print_anything,
    safetensors_path,
    seed_number,
)

# A user can put these right. Other errors are bugs, whose traceback is wanted.
_EXPECTED = (
    CheckpointError,
    DetectorUnavailableError,
    DownloadError,
    FaceError,
    NoModelsFolderError,
    PipelineUnavailableError,
    OSError,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; `argv` is `sys.argv[1:]` by default.

    Returns the exit code; argparse itself exits on bad usage.
    """
    print_anything()
    logging.basicConfig(level=logging.WARNING, format="faceclip: %(message)s")
    options = build_parser().parse_args(argv)
    try:
        options.run(options)
    except _EXPECTED as error:
        print("faceclip: error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0


def build_parser() -> argparse.ArgumentParser:
    """All commands with their options; each sets `run`, a function of the parsed options."""
    parser = argparse.ArgumentParser(prog="faceclip", description="FaceCLIP: a face and a prompt become an SDXL or FLUX picture.")
    commands = parser.add_subparsers(required=True, metavar="command")
    for add in (_add_convert, _add_detect, _add_encode, _add_generate, _add_similarity, add_download):
        add(commands)
    return parser


def _add_convert(commands) -> None:
    parser = commands.add_parser("convert", help="write a released file as one smaller, safer safetensors file")
    parser.add_argument(
        "source", type=Path, metavar="IN", help="face_clip_encoder.pt, face_t5_encoder.pt or dit.pt, or a safetensors of it"
    )
    parser.add_argument("target", type=safetensors_path, metavar="OUT", help="the .safetensors file to write")
    parser.add_argument("--dtype", choices=CONVERT_DTYPES, default="bf16", help="what the weights are kept in (default: bf16)")
    facet5 = parser.add_argument_group("of face_t5_encoder.pt")
    facet5.add_argument("--t5xxl", type=safetensors_path, metavar="OUT", help="write its T5 as well, for DualCLIPLoader")
    facet5.add_argument("--clip-l", type=safetensors_path, metavar="OUT", help="write its CLIP-L as well")
    facet5.add_argument(
        "--class-head", action="store_true", help="keep what makes its identities serve FaceCLIP-SDXL, too (0.17 GB in bf16)"
    )
    parser.set_defaults(run=_convert)


def _add_detect(commands) -> None:
    parser = commands.add_parser("detect", help="find the faces of a photo; write aligned crops and a numbered preview")
    parser.add_argument("photo", type=Path, metavar="PHOTO")
    parser.add_argument("--out-dir", type=Path, default=Path(), help="where the pictures go (default: the current folder)")
    add_detector_options(parser)
    parser.set_defaults(run=_detect)


def _add_encode(commands) -> None:
    parser = commands.add_parser("encode", help="write the SDXL conditioning of prompts and a face")
    parser.add_argument("--prompt", action="append", required=True, help="give it several times for several prompts")
    parser.add_argument("--out", type=safetensors_path, required=True, help="the .safetensors file to write")
    parser.add_argument("--long-prompts", choices=get_args(LongPrompts), default="cut", help="more than 77 tokens (default: cut)")
    add_encoder_options(parser)
    parser.set_defaults(run=_encode)


def _add_generate(commands) -> None:
    parser = commands.add_parser("generate", help="make a picture of the person in a photo")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--out", type=picture_path, required=True, help="the picture to write (.png, .jpg, .webp, ...)")
    parser.add_argument("--family", choices=("sdxl", "flux"), default="sdxl", help="FaceCLIP-SDXL (default) or FaceT5-FLUX")
    parser.add_argument("--unet", type=Path, help="of sdxl: the released unet.pt, a safetensors of it, or a diffusers folder")
    parser.add_argument("--transformer", type=Path, help="of flux: dit.pt, what `convert` made of it, or a diffusers folder")
    parser.add_argument(
        "--base", help="SDXL base or FLUX.1-dev: a diffusers folder, or a repository in Hugging Face's cache (default: that)"
    )
    parser.add_argument(
        "--vae", type=Path, help="of sdxl: a VAE's file, such as sdxl_vae.safetensors, or folder; then no --base is needed"
    )
    parser.add_argument("--negative", help="what the picture should not be (default: common faults)")
    parser.add_argument("--seed", type=seed_number, help="default: a random one, which is printed")
    parser.add_argument("--steps", type=at_least_one, default=50, help="default: 50")
    parser.add_argument("--width", type=multiple_of_8, default=864, help="pixels (default: 864)")
    parser.add_argument("--height", type=multiple_of_8, default=1152, help="pixels (default: 1152)")
    parser.add_argument("--cfg", type=not_negative, help="guidance; 1 switches it off (default: 5, with flux 3.5)")
    parser.add_argument("--offload", action="store_true", help="keep on the GPU only what is at work: slower, less memory")
    add_encoder_options(parser)
    parser.set_defaults(run=_generate)


def _add_similarity(commands) -> None:
    parser = commands.add_parser("similarity", help="how much pictures show the same person")
    parser.add_argument("reference", type=Path, metavar="A", help="a photo of the person; its largest face counts")
    parser.add_argument("pictures", type=Path, metavar="B", nargs="+", help="pictures to compare; the most similar face counts")
    parser.add_argument("--judge", choices=get_args(Judge), default="auto", help="who compares (default: auto)")
    parser.set_defaults(run=_similarity)


def _convert(options: argparse.Namespace) -> None:
    from .convert import convert_file

    convert_file(options)


def _detect(options: argparse.Namespace) -> None:
    from ..face.preview import draw_faces

    photo = load_photo(options.photo)
    detector = load_detector(options.backend)
    faces = detect_faces(detector, photo, options.order)
    if not faces:
        raise FaceError(_no_face(options.photo, photo, detector))
    options.out_dir.mkdir(parents=True, exist_ok=True)
    crops = [align_face(photo, face) for face in faces]
    quality = [assess(crop, face) for crop, face in zip(crops, faces, strict=True)]
    notes = [[warning.split(":")[0] for warning in found.warnings] for found in quality]
    for index, (face, crop, found) in enumerate(zip(faces, crops, quality, strict=True)):
        path = options.out_dir / f"{options.photo.stem}_face_{index}.png"
        Image.fromarray((crop.image * 255).round().astype("uint8")).save(path)
        lies = [f"{found.lies}: turned upright"] if found.lies else []
        print(f"{path}: {face.size:.0f} px in the photo, confidence {face.confidence:.2f}", *lies, *found.warnings, sep="; ")
    preview = options.out_dir / f"{options.photo.stem}_faces.jpg"
    Image.fromarray(draw_faces(photo, faces, notes, range(len(faces)))).save(preview, quality=90)
    print(f"{preview}: {len(faces)} face{'s' if len(faces) > 1 else ''}, numbered {options.order}")


def _encode(options: argparse.Namespace) -> None:
    crop = _face_crop(options)
    hub.require_files(options.encoder)
    encoder = FaceCLIPEncoder.from_file(options.encoder, options.device, _dtype(options) or default_dtype(options.device))
    identity: Identity | None = None if crop is None else encoder.encode_faces(crop)
    result = encoder.encode(options.prompt, identity, strength=options.strength, long_prompts=options.long_prompts)
    write_safetensors(
        options.out,
        {"embeddings": result.embeddings, "pooled": result.pooled},
        {
            "format": "faceclip_conditioning",
            "prompts": json.dumps(options.prompt),
            "face": str(identity is not None and bool(identity.present.all())).lower(),
            "strength": str(options.strength),
        },
    )
    print(f"{options.out}: embeddings {list(result.embeddings.shape)}, pooled {list(result.pooled.shape)}")


def _generate(options: argparse.Namespace) -> None:
    network = _network(options)
    crop = _face_crop(options)
    where: dict[str, Any] = {"device": options.device, "dtype": _dtype(options), "offload": options.offload}
    if options.family == "flux":
        from ..flux.pipeline import FLUX_BASE, FaceT5Pipeline
        from ..prompt import FLUX_NEGATIVE_PROMPT

        pipeline = FaceT5Pipeline.from_files(options.encoder, network, options.base or FLUX_BASE, **where)
        negative, cfg = FLUX_NEGATIVE_PROMPT, 3.5
    else:
        pipeline = FaceCLIPPipeline.from_files(options.encoder, network, options.base or SDXL_BASE, vae=options.vae, **where)
        negative, cfg = NEGATIVE_PROMPT, 5.0
    cfg = cfg if options.cfg is None else options.cfg
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    start = time.perf_counter()
    (picture,) = pipeline(
        options.prompt,
        crop,
        negative_prompt=negative if options.negative is None else options.negative,
        width=options.width,
        height=options.height,
        steps=options.steps,
        guidance=cfg,
        seed=seed,
        strength=options.strength,
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(options.out)
    print(
        f"{options.out}: {picture.width} x {picture.height}, seed {seed}, {options.steps} steps, CFG {cfg:g}, "
        f"strength {options.strength:g}, {time.perf_counter() - start:.1f} s on {options.device}"
    )


def _network(options: argparse.Namespace) -> Path:
    """What makes the picture, by family.

    Raises CheckpointError if it was not given, or that of the other family was.
    """
    wanted, other = ("transformer", "unet") if options.family == "flux" else ("unet", "transformer")
    path = getattr(options, wanted)
    if path is None or getattr(options, other) is not None:
        name = "dit.pt" if wanted == "transformer" else "unet.pt"
        raise CheckpointError(f"generate --family {options.family} needs --{wanted} (the released {name}), and no --{other}.")
    return path


def _similarity(options: argparse.Namespace) -> None:
    from ..face.similarity import reference_embedding, score_images

    photos = [load_photo(path) for path in (options.reference, *options.pictures)]
    judge = load_judge(options.judge)
    if not detect_faces(judge.detector, photos[0]):
        raise FaceError(_no_face(options.reference, photos[0], judge.detector))
    result = score_images(judge, photos[1:], reference_embedding(judge, photos[:1]))
    for index in result.ranking:
        score = result.scores[index]
        if math.isnan(score):
            print(f"   -    {options.pictures[index]}: no face")
        else:
            likely = "likely the same person" if score > result.same_person_above else "likely another person"
            print(f"{score:7.4f} {options.pictures[index]}: {likely}")
    print(f"Cosine by {result.judge}, 1 at most; faces of one person usually score above {result.same_person_above:g}.")


def _face_crop(options: argparse.Namespace) -> Tensor | None:
    """The chosen face as [1, 3, 448, 448] in [0, 1]; None if none was given. Logs what is doubtful about it."""
    if options.face is None:
        return None
    photo = load_photo(options.face)
    if options.aligned:
        return _as_crop(options.face, photo)
    detector = load_detector(options.backend)
    faces = detect_faces(detector, photo, options.order, at_least=options.index + 1)
    if not faces:
        raise FaceError(_no_face(options.face, photo, detector))
    if not 0 <= options.index < len(faces):
        found = f"{len(faces)} face{'s' if len(faces) > 1 else ''}"
        raise FaceError(f"{options.face} shows {found}, so there is no face number {options.index}: numbers start at 0.")
    crop = align_face(photo, faces[options.index])
    for warning in assess(crop, faces[options.index]).warnings:
        logging.getLogger(__name__).warning("%s: %s", options.face, warning)
    return torch.from_numpy(crop.image).permute(2, 0, 1).unsqueeze(0)


def _as_crop(path: Path, photo) -> Tensor:
    height, width = photo.shape[:2]
    if (height, width) != (CROP_SIZE, CROP_SIZE):
        raise FaceError(
            f"{path} is {width} x {height}, but an aligned crop is {CROP_SIZE} x {CROP_SIZE}. Leave out --aligned to have the "
            "face found and aligned."
        )
    return torch.from_numpy(photo).permute(2, 0, 1).unsqueeze(0).float() / 255


def _no_face(path: Path, photo, detector: FaceDetector) -> str:
    height, width = photo.shape[:2]
    return (
        f"No face was found in {path} ({width} x {height}). The detector {detector.name} {detector.tried}. Use a larger, sharper "
        "photo that shows the face from the front."
    )


def _dtype(options: argparse.Namespace) -> torch.dtype | None:
    return DTYPES[options.dtype] if options.dtype else None
