"""What the example workflows share: files, settings, notes, and the parts of a graph that come back in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from faceclip import hub
from faceclip.pipeline import NEGATIVE_PROMPT

from .format import Graph, Node, Place, Socket

PHOTO = "example.png"  # a picture that every ComfyUI has: the photo is the user's to choose
BLUE, GREEN, PURPLE = "#3f789e", "#88a65e", "#8f6fae"


@dataclass(frozen=True)
class Files:
    """The model files a workflow loads."""

    encoder: str
    unet: str
    vae: str


@dataclass(frozen=True)
class Settings:
    """How a workflow samples."""

    width: int
    height: int
    steps: int
    cfg: float = 5.0
    batch: int = 1
    scheduler: str = "ddim_uniform"


MINI = Files("faceclip_mini_encoder.safetensors", "faceclip_mini_unet.safetensors", "zz_faceclip_mini_vae.safetensors")
SDXL = Files("face_clip_encoder.pt", "unet.pt", "sdxl_vae.safetensors")
OFFICIAL = Settings(width=864, height=1152, steps=50)
MINI_SAMPLING = Settings(width=128, height=128, steps=20, cfg=2.0, scheduler="normal")
"""What the mini model was trained and measured at. It begins at pure noise, which ddim_uniform leaves out."""

DOWNLOADS = "\n".join(
    f"| [{file.name}]({file.url}) | `models/{file.folder}` |" for file in map(hub.get, (SDXL.encoder, SDXL.unet, SDXL.vae))
)
SDXL_NOTE = f"""
## FaceCLIP-SDXL

Download once:

| file | folder |
|---|---|
{DOWNLOADS}

FaceCLIP's weights are {hub.FACECLIP_LICENCE}: **not for commercial use**.

Choose your photo, say in the prompt what the person does and wears, press **Run**. The negative prompt goes through the same
encoder with no identity; its words are this pack's, not the release's.
"""
SETTINGS_NOTE = """
The settings are the release's: 864 x 1152, Euler, 50 steps, CFG 5. The scheduler *ddim_uniform* spaces the steps as the
release's does. *strength* below 1 gives the prompt more say, 0 leaves the face out.
"""


class Column:
    """A column of nodes on the canvas, filled from the top."""

    def __init__(self, graph: Graph, x: int, width: int = 320, y: int = 0, gap: int = 60):
        self.graph, self.x, self.width, self.y, self.gap = graph, x, width, y, gap
        self.nodes: list[Node] = []

    def add(
        self, kind: str, height: int, /, title: str | None = None, models: Sequence[Mapping[str, str]] = (), **values
    ) -> Node:
        """As `Graph.add`, below what is there."""
        node = self.graph.add(kind, Place(self.x, self.y, self.width, height), title, models, **values)
        self.y += height + self.gap
        self.nodes.append(node)
        return node

    def group(self, title: str, colour: str) -> None:
        """Frame the whole column."""
        self.graph.group(title, colour, self.nodes)


def photo_to_face(graph: Graph, y: int) -> tuple[list[Node], Node, Node]:
    """Load Image, Detect Faces and both previews in a row; returns all of them, the photo and the faces."""
    photo = graph.add("LoadImage", Place(0, y, 320, 330), title="Your photo", image=PHOTO)
    faces = graph.add("FaceCLIPDetectFaces", Place(360, y, 320, 260), image=photo["IMAGE"])
    boxes = graph.add("PreviewImage", Place(720, y, 320, 330), title="Which face", images=faces["preview"])
    crop = graph.add("PreviewImage", Place(1080, y, 320, 330), title="What the encoder sees", images=faces["faces"])
    return [photo, faces, boxes, crop], photo, faces


def downloads(name: str) -> list[dict[str, str]]:
    """What the front end needs to offer a missing file; nothing for files that come with the pack."""
    file = hub.find(name)
    if file is None:
        return []
    checksum = {"hash": file.sha256, "hash_type": "SHA256"} if file.sha256 else {}
    return [{"name": file.name, "url": file.url, "directory": file.folder, **checksum}]


def download(name: str, repository: str, folder: str) -> dict[str, str]:
    """What the front end needs to offer a file that is not FaceCLIP's own,
    from the root of a repository on Hugging Face."""
    return {"name": name, "url": f"{hub.HUGGING_FACE}/{repository}/resolve/main/{name}", "directory": folder}


def load_models(graph: Graph, files: Files, x: int, y: int) -> tuple[Node, Node, Node]:
    encoder = graph.add(
        "FaceCLIPEncoderLoader", Place(x, y, 380, 90), models=downloads(files.encoder), encoder_name=files.encoder
    )
    unet = graph.add("FaceCLIPUNetLoader", Place(x, y + 140, 380, 90), models=downloads(files.unet), unet_name=files.unet)
    vae = graph.add("VAELoader", Place(x, y + 280, 380, 60), models=downloads(files.vae), vae_name=files.vae)
    return encoder, unet, vae


def write_prompt(
    graph: Graph, encoder: Node, text: str, where: Place, settings: Settings, identity: Socket | None, title: str
) -> Node:
    size: dict[str, Any] = {"width": settings.width, "height": settings.height}
    return graph.add("FaceCLIPTextEncode", where, title=title, encoder=encoder["encoder"], identity=identity, prompt=text, **size)


def sample(
    graph: Graph, models: tuple[Node | Socket, Node], prompts: tuple[Socket, Socket], settings: Settings, x: int, y: int
) -> list[Node]:
    """Latent, sampler and decoder, one below the other; the last one's IMAGE is the picture.

    `models`: UNet, or what was made of it, and VAE.
    """
    column = Column(graph, x, y=y, gap=50)
    size: dict[str, Any] = {"width": settings.width, "height": settings.height, "batch_size": settings.batch}
    latent = column.add("EmptyLatentImage", 120, **size)
    sample_from(column, models, prompts, latent["LATENT"], settings)
    return column.nodes


def sample_from(
    column: Column,
    models: tuple[Node | Socket, Node],
    prompts: tuple[Socket, Socket],
    latent: Socket,
    settings: Settings,
    denoise: float = 1.0,
) -> Node:
    """Sampler and decoder below what is in a column; returns the decoder, whose IMAGE is the picture."""
    unet, vae = models
    sampler = column.add(
        "KSampler",
        270,
        model=unet["model"] if isinstance(unet, Node) else unet,
        positive=prompts[0],
        negative=prompts[1],
        latent_image=latent,
        seed=42,
        steps=settings.steps,
        cfg=settings.cfg,
        sampler_name="euler",
        scheduler=settings.scheduler,
        denoise=denoise,
    )
    return column.add("VAEDecode", 60, samples=sampler["LATENT"], vae=vae["VAE"])


def read_photo(graph: Graph, title: str = "1. Your photo") -> tuple[Node, Node]:
    """A photo's row, framed; returns the photo and the faces."""
    row, photo, faces = photo_to_face(graph, 0)
    graph.group(title, BLUE, row)
    return photo, faces


def one_person(graph: Graph, title: str = "1. Your photo") -> tuple[Node, Node, Node, Socket]:
    """A photo and the released models beside it; returns encoder, UNet, VAE and the identity."""
    _, faces = read_photo(graph, title)
    encoder, unet, vae = load_models(graph, SDXL, 1480, 0)
    column = Column(graph, 1480, 380, y=440)
    identity = column.add("FaceCLIPEncodeIdentity", 90, encoder=encoder["encoder"], faces=faces["faces"])
    graph.group("2. Models", GREEN, [encoder, unet, vae, identity])
    return encoder, unet, vae, identity["identity"]


def portrait(graph: Graph, files: Files, settings: Settings, prompt: str) -> tuple[Node, list[Node]]:
    """Photo, identity, prompts and sampler.

    Returns the photo and the sampling nodes, of which the last makes the picture.
    """
    photo, faces = read_photo(graph)
    encoder, unet, vae = load_models(graph, files, 0, 460)
    identity = graph.add("FaceCLIPEncodeIdentity", Place(440, 460, 320, 90), encoder=encoder["encoder"], faces=faces["faces"])
    positive = write_prompt(
        graph, encoder, prompt, Place(800, 460, 600, 310), settings, identity["identity"], "Prompt, with the face"
    )
    negative = write_prompt(
        graph, encoder, NEGATIVE_PROMPT, Place(800, 830, 600, 310), settings, None, "Negative prompt, no face"
    )
    graph.group("2. Models and prompt", GREEN, [encoder, unet, vae, identity, positive, negative])
    prompts = positive["conditioning"], negative["conditioning"]
    return photo, sample(graph, (unet, vae), prompts, settings, 1480, 0)


def save(graph: Graph, sampling: list[Node], where: Place, prefix: str, number: int) -> None:
    saved = graph.add("SaveImage", where, images=sampling[-1]["IMAGE"], filename_prefix=f"FaceCLIP/{prefix}")
    graph.group(f"{number}. Picture", PURPLE, [*sampling, saved])


def explain(graph: Graph, text: str) -> None:
    """The notes of a workflow with the released weights: where to get them, and what this one shows."""
    graph.note(text, Place(-560, 400, 500, 280), "What this shows")
    graph.note(SDXL_NOTE, Place(-560, 0, 500, 340), "Start here")
