"""What the example workflows share: files, settings, notes, and the parts of a graph that come back in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from faceclip import hub

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

Choose your photo, say in the prompt what the person does and wears, press **Run**. The negative prompt sees no face; its words
are this pack's, not the release's.
"""
SETTINGS_NOTE = """
The settings are the release's: 864 x 1152, Euler, 50 steps, CFG 5. The scheduler *ddim_uniform* spaces the steps as the
release's does. *strength* below 1 gives the prompt more say, 0 leaves the face out.
"""


class Column:
    """A column of nodes on the canvas, filled from the top."""

    def __init__(self, graph: Graph, x: int, width: int = 320, y: int = 0, gap: int = 100):
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


def photo_to_face(graph: Graph, y: int, example: int | None = None) -> tuple[list[Node], Node, Node]:
    """Load Image, or the example face of that number, and Detect Faces, which shows what it found.

    Returns both, the photo and the faces.
    """
    if example is not None:
        people = graph.choices("FaceCLIPExampleFace", "person")
        photo = graph.add("FaceCLIPExampleFace", Place(0, y, 320, 370), "Who", person=people[example % len(people)])
        photo = Node(photo.id, {"IMAGE": photo["image"]})
    else:
        photo = graph.add("LoadImage", Place(0, y, 320, 370), title="Your photo", image=PHOTO)
    faces = graph.add("FaceCLIPDetectFaces", Place(360, y, 360, 520), image=photo["IMAGE"])
    return [photo, faces], photo, faces


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


def load_all(graph: Graph, files: Files, where: Place) -> Node:
    """Encoder, UNet and VAE of a workflow by one node, with what the front end offers to download."""
    names = {"encoder_name": files.encoder, "unet_name": files.unet, "vae_name": files.vae}
    offered = [file for name in names.values() for file in downloads(name)]
    return graph.add("FaceCLIPLoader", where, models=offered, **names)


def load_models(graph: Graph, files: Files, x: int, y: int) -> tuple[Node, Node, Node]:
    """As `load_all`; the node three times: encoder, UNet, and VAE with the core's name for its output."""
    loader = load_all(graph, files, Place(x, y, 380, 200))
    return loader, loader, Node(loader.id, {"VAE": loader["vae"]})


PROMPTS = 460  # px: how high Text Encode stands


def write_prompt(
    graph: Graph, encoder: Node, text: str, where: Place, identity: Socket | None, title: str | None = None, **more: Any
) -> Node:
    """Both prompts by one node, of the picture's own size."""
    return graph.add("FaceCLIPTextEncode", where, title, encoder=encoder["encoder"], identity=identity, prompt=text, **more)


def sample(
    graph: Graph, models: tuple[Node | Socket, Node], prompts: tuple[Socket, Socket], settings: Settings, x: int, y: int
) -> list[Node]:
    """Latent, sampler and decoder, one below the other; the last one's IMAGE is the picture.

    `models`: UNet, or what was made of it, and VAE.
    """
    column = Column(graph, x, y=y, gap=90)
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
    sampler = run_sampler(column, models[0], prompts, latent, settings, denoise)
    return column.add("VAEDecode", 60, samples=sampler["LATENT"], vae=models[1]["VAE"])


def run_sampler(
    column: Column,
    unet: Node | Socket,
    prompts: tuple[Socket, Socket],
    latent: Socket,
    settings: Settings,
    denoise: float = 1.0,
) -> Node:
    """A sampler below what is in a column; its LATENT is the result."""
    return column.add(
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


def read_photo(graph: Graph, title: str = "1. Your photo", example: int | None = None) -> tuple[Node, Node]:
    """A photo's row, framed; returns the photo and the faces."""
    row, photo, faces = photo_to_face(graph, 0, example)
    graph.group(title, BLUE, row)
    return photo, faces


def one_person(graph: Graph, title: str = "1. Your photo") -> tuple[Node, Node, Node, Socket]:
    """A photo and the released models beside it; returns encoder, UNet, VAE and the identity."""
    _, faces = read_photo(graph, title)
    encoder, unet, vae = load_models(graph, SDXL, 800, 0)
    column = Column(graph, 800, 380, y=300)
    identity = column.add("FaceCLIPEncodeIdentity", 120, encoder=encoder["encoder"], faces=faces["faces"])
    graph.group("2. Models", GREEN, [encoder, identity])
    return encoder, unet, vae, identity["identity"]


def portrait(
    graph: Graph, files: Files, settings: Settings, prompt: str, example: int | None = None
) -> tuple[Node, Node, list[Node]]:
    """Photo, identity, prompts and sampler.

    Returns the photo, the prompts and the sampling nodes, of which the last makes the picture.
    """
    photo, faces = read_photo(graph, "1. Your photo" if example is None else "1. A drawn person", example)
    encoder, unet, vae = load_models(graph, files, 800, 0)
    identity = graph.add("FaceCLIPEncodeIdentity", Place(800, 300, 380, 120), encoder=encoder["encoder"], faces=faces["faces"])
    graph.group("2. Models", GREEN, [encoder, identity])
    prompts = write_prompt(graph, encoder, prompt, Place(1260, 0, 480, PROMPTS), identity["identity"])
    graph.group("3. Prompts", GREEN, [prompts])
    sockets = prompts["conditioning"], prompts["negative"]
    return photo, prompts, sample(graph, (unet, vae), sockets, settings, 1820, 0)


def save(graph: Graph, sampling: list[Node], where: Place, prefix: str, number: int) -> None:
    saved = graph.add("SaveImage", where, images=sampling[-1]["IMAGE"], filename_prefix=f"FaceCLIP/{prefix}")
    graph.group(f"{number}. Picture", PURPLE, [*sampling, saved])


def explain(graph: Graph, text: str) -> None:
    """The notes of a workflow with the released weights: where to get them, and what this one shows."""
    graph.note(text, Place(-560, 400, 500, 280), "What this shows")
    graph.note(SDXL_NOTE, Place(-560, 0, 500, 340), "Start here")
