"""Two measurements of an encoder itself, without generating: zero-shot classification, and the identity map."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from faceclip import FaceCLIPEncoder
from faceclip.checkpoint import read_state_dict
from faceclip.face import FaceChoice, NoFaceError, faces_from_images, load_detector, load_photo
from faceclip.face.detect import Backend
from faceclip.metrics import (
    IdentityMap,
    ZeroShotScores,
    class_embeddings,
    draw_identity_map,
    measure_identity_map,
    zero_shot_accuracy,
)

from ..data.decode import clip_crop
from ..data.folders import is_hidden
from ..data.texts import decode_text
from ..frozen.teacher import ImageTeacher, load_teacher
from ..pretrain.model import PretrainModel, black_face_texts
from ..run.ranks import Ranks
from .protocol import ProtocolError, list_pictures, listed

logger = logging.getLogger(__name__)

IMAGENET = "imagenet"
BATCH = 32


@dataclass(frozen=True)
class ZeroShotCommand:
    """Classify pictures by class texts that went through FaceCLIP with a black face (paper, Table 1)."""

    encoder: Path
    """encoder.safetensors of a pretraining run (one branch)."""
    heads: Path
    """heads.safetensors of the same run: the projection to CLIP's space is in it."""
    images: Path
    """Folder of classes, each a folder of pictures."""
    teacher: str = "ViT-L-14-quickgelu"
    """The vision tower of the run: open_clip's name, or `mini`."""
    init_clip: str = ""
    """Its checkpoint."""
    class_names: str = ""
    """What the classes are called: a file with one name a line in the order of the sorted folders, `imagenet` for
    open_clip's 1,000 names in the order of the WordNet ids, or nothing to take the folders' own names."""
    out: Path = Path("zero_shot.json")
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class MapCommand:
    """Draw and measure how the joint representation of photos groups by person (paper, Fig. 2)."""

    encoder: Path
    """A FaceCLIP encoder's file."""
    people: Path
    """Folder of people, each a folder of photos."""
    prompts: tuple[str, ...] = ("a person in the street", "a person on a beach", "a portrait in soft light", "a person reading")
    """Each photo gets one of them in turn, so that what is grouped is not the text."""
    neighbours: int = 5
    detector: Backend = "auto"
    out: Path = Path("identity_map")
    """Folder for identity_map.json and identity_map.png."""
    seed: int = 0
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


def zero_shot(command: ZeroShotCommand, ranks: Ranks) -> ZeroShotScores:
    """Measure on all ranks, print and write JSON on the first.

    Raises ValueError (of many kinds) for files that do not fit.
    """
    model = load_pretrained(command.encoder, command.heads).to(command.device)
    teacher = load_teacher(command.teacher, command.init_clip, model.heads.text.out_features).to(command.device)
    folders = _folders(command.images, "class")
    names = _class_names(command.class_names, list(folders))
    classes = class_embeddings(lambda texts: black_face_texts(model, texts).cpu(), names)
    pictures = [(path, label) for label, paths in enumerate(folders.values()) for path in paths]
    paths = [path for path, _ in pictures]
    embedded = torch.stack(ranks.deal(paths, lambda own: list(torch.cat(list(_embed(teacher, own))))))
    scores = zero_shot_accuracy(embedded, classes, [label for _, label in pictures])
    if not ranks.is_main:
        return scores
    command.out.parent.mkdir(parents=True, exist_ok=True)
    command.out.write_text(json.dumps(asdict(scores), indent=1), encoding="utf-8")
    print(
        f"{scores.images} pictures, {scores.classes} classes: top-1 {scores.top1:.1%} (mean over classes "
        f"{scores.top1_per_class:.1%}), top-5 {scores.top5:.1%}; chance {1 / scores.classes:.1%}"
    )
    return scores


def identity_map(command: MapCommand, ranks: Ranks) -> IdentityMap:
    """Measure, print, write JSON and the picture. Raises ValueError (of many kinds) for what cannot be used."""
    if not command.prompts:
        raise ProtocolError("A prompt is needed beside the face: give one with --prompts.")
    encoder = FaceCLIPEncoder.from_file(command.encoder, command.device).eval()
    detector = load_detector(command.detector)
    rows, people = [], []
    for person, paths in _folders(command.people, "person").items():
        for path in paths:
            photo = torch.from_numpy(load_photo(path))[None].float() / 255
            try:
                crop = faces_from_images(photo, detector, FaceChoice()).aligned.permute(0, 3, 1, 2)
            except NoFaceError:
                logger.warning("%s shows no face and is left out", path)
                continue
            prompt = command.prompts[len(rows) % len(command.prompts)]
            rows.append(encoder.encode([prompt], encoder.encode_faces(crop)).embeddings.flatten(1).float().cpu())
            people.append(person)
    if not rows:
        raise ProtocolError(f"No face was found in any photo of {command.people}.")
    features = torch.cat(rows)
    measured = measure_identity_map(features, people, command.neighbours)
    command.out.mkdir(parents=True, exist_ok=True)
    (command.out / "identity_map.json").write_text(json.dumps(asdict(measured), indent=1), encoding="utf-8")
    title = f"purity {measured.purity:.2f} (chance {measured.chance:.2f}), silhouette {measured.silhouette:.2f}"
    draw_identity_map(features, people, command.out / "identity_map.png", title=title, seed=command.seed)
    print(f"{measured.rows} photos of {measured.people} people: {title}. {command.out / 'identity_map.png'}")
    return measured


def load_pretrained(encoder: Path, heads: Path) -> PretrainModel:
    """An encoder of one branch with its training heads, for reading.

    Raises ProtocolError if they do not belong together.
    """
    tower = FaceCLIPEncoder.from_file(encoder)
    if len(tower.config.branches) != 1:
        raise ProtocolError(f"{encoder} has {len(tower.config.branches)} branches; zero-shot classification looks at one.")
    model = PretrainModel(tower)
    tensors = {n.removeprefix("heads."): t for n, t in read_state_dict(heads).items() if n.startswith("heads.")}
    own = model.heads.state_dict()
    if tensors.keys() != own.keys() or any(tensors[name].shape != own[name].shape for name in own):
        raise ProtocolError(f"{heads} is not the heads.safetensors of the run that made {encoder}.")
    model.heads.load_state_dict(tensors)
    return model.eval().requires_grad_(False)


def _embed(teacher: ImageTeacher, paths: Sequence[Path]) -> Iterator[Tensor]:
    for start in range(0, len(paths), BATCH):
        views = [clip_crop(Image.fromarray(load_photo(path)), teacher.size) for path in paths[start : start + BATCH]]
        yield teacher(torch.from_numpy(np.stack(views))).cpu()


def _folders(root: Path, what: str) -> dict[str, list[Path]]:
    if not root.is_dir():
        raise ProtocolError(f"There is no folder at {root}.")
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not is_hidden(entry.name))
    found = {folder.name: list_pictures(folder) for folder in folders}
    empty = [name for name, paths in found.items() if not paths]
    if len(found) < 2 or empty:
        raise ProtocolError(
            f"{root} needs one folder of pictures for each {what}, two or more; found {len(found)}"
            + (f", without a picture: {listed(empty)}." if empty else ".")
        )
    return found


def _class_names(source: str, folders: list[str]) -> list[str]:
    if not source:
        return [name.replace("_", " ") for name in folders]
    if source == IMAGENET:
        import open_clip

        names = list(open_clip.IMAGENET_CLASSNAMES)
    else:
        try:
            lines = decode_text(Path(source).read_bytes()).split("\n")
        except (OSError, ValueError) as error:
            raise ProtocolError(f"The names of classes cannot be read from {source} ({error}). Give a text in UTF-8.") from error
        names = [line.strip() for line in lines if line.strip()]
    if len(names) != len(folders):
        raise ProtocolError(f"{source} names {len(names)} classes, the folders are {len(folders)}.")
    return names
