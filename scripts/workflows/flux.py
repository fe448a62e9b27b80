"""Example workflows for FLUX: FaceT5 in the place of FaceCLIP, everything else the core's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from faceclip import hub
from faceclip.prompt import FLUX_NEGATIVE_PROMPT

from .format import Graph, Node, Place, Socket
from .names import file_name
from .parts import BLUE, GREEN, PURPLE, Column, Settings, downloads, photo_to_face, read_photo, sample_from, save

FACET5, DIT, T5, CLIP, VAE = (
    "face_t5_encoder.pt",
    "dit.pt",
    "t5xxl_fp16.safetensors",
    "clip_l.safetensors",
    "ae.safetensors",
)
SETTINGS = Settings(width=864, height=1152, steps=50, cfg=3.5, scheduler="simple")
TWO = Settings(width=1152, height=864, steps=50, cfg=3.5, scheduler="simple")
SAVED = "my_person"
_TABLE = "\n".join(
    f"| [{file.name}]({file.url}) | {file.size_told} | `models/{file.folder}` |"
    for file in map(hub.get, (FACET5, DIT, T5, CLIP, VAE))
)
FLUX_NOTE = f"""
## FaceT5-FLUX

Download once (`faceclip download facet5 flux`):

| file | size | folder |
|---|---|---|
{_TABLE}

FaceT5's weights are {hub.FACECLIP_LICENCE} on top of FLUX.1-dev's own non-commercial licence: **not for commercial use**.
FLUX users have the last three files already; another `t5xxl` serves as well.
"""
MEMORY_NOTE = """
## Memory and time

The transformer takes **23.8 GB** in bf16, **11.9 GB** in fp8 (*weight_dtype* `fp8_e4m3fn`). T5 (9.8 GB, 4.9 in fp8) and FaceT5
(2 to 2.8 GB) make room for it before the sampling begins. A picture is **11 times the work** of one with FaceCLIP-SDXL.

Once, in a terminal, to save disk and loading time: `faceclip convert face_t5_encoder.pt facet5_bf16.safetensors`, and
`faceclip convert dit.pt facet5_dit_fp8.safetensors --dtype fp8`.

The settings are the release's: Euler, *simple*, 50 steps, CFG 3.5, embedded guidance 1, *ModelSamplingFlux* at the size of
the picture. The words of the negative prompt are this pack's, not the release's.
"""
TWO_NOTE = """
## Two people in one picture

Identity lives in the conditioning, so core nodes place it: each person's conditioning gets a **mask**, and
*Conditioning (Combine)* joins them. Paint your own masks for other layouts; they may have any size.

Each person costs another run of the transformer in every step.
"""
SAVED_NOTE = f"""
## A person from FaceCLIP-SDXL

*Load Identity* reads what *Save Identity* wrote, with FaceCLIP-SDXL (workflow *{file_name("Save a person")}*) or with FaceT5:
both read the face with the same network, if the release made them of the same weights. If it did not, the node says so;
then encode the photo with FaceT5. Press **R** if a new file is not in the list.
"""


@dataclass(frozen=True)
class _Models:
    model: Node  # with the noise levels of the picture's size
    clip: Node
    vae: Node
    facet5: Node
    all: list[Node]


def basic(graph: Graph) -> None:
    _, faces = read_photo(graph)
    models = _load(graph, 800, SETTINGS)
    identity = graph.add(
        "FaceCLIPEncodeIdentity", Place(800, 1060, 380, 120), encoder=models.facet5["facet5"], faces=faces["faces"]
    )
    graph.group("2. Models", GREEN, [*models.all, identity])
    _picture(graph, models, identity["identity"], "a person in a blue denim shirt reading in a sunlit library, photograph", 1260)
    _explain(graph)


def saved_identity(graph: Graph) -> None:
    models = _load(graph, 0, SETTINGS)
    identity = graph.add("FaceCLIPLoadIdentity", Place(0, 1060, 380, 60), file_name=f"{SAVED}.safetensors")
    graph.group("1. Models and person", BLUE, [*models.all, identity])
    _picture(graph, models, identity["identity"], "a person feeding pigeons in a square, photograph", 460, first=2)
    _explain(graph)
    graph.note(SAVED_NOTE, Place(-640, 900, 580, 220), "What this shows")


def two_people(graph: Graph) -> None:
    rows = [photo_to_face(graph, y) for y in (0, 620)]
    graph.group("1. Photos", BLUE, [*rows[0][0], *rows[1][0]])
    models = _load(graph, 800, TWO)
    graph.group("2. Models", GREEN, models.all)

    half = TWO.width // 2
    masks = Column(graph, 800, 380, y=1060)
    nothing = masks.add("SolidMask", 110, "Everywhere", value=0.0, width=TWO.width, height=TWO.height)
    part = masks.add("SolidMask", 110, "One half", value=1.0, width=half, height=TWO.height)
    where = [
        masks.add("MaskComposite", 150, title, destination=nothing["MASK"], source=part["MASK"], x=x, y=0, operation="add")
        for title, x in (("Left half", 0), ("Right half", half))
    ]
    masks.group("3. Who stands where", PURPLE)

    texts = [f"a person on a sandy beach by the sea, wearing a {clothes}, photograph" for clothes in ("red coat", "grey suit")]
    words, placed = Column(graph, 1260, 400), Column(graph, 1700, 300)
    prompts: list[Node] = []
    for number, (text, mask, row) in enumerate(zip(texts, where, rows, strict=True), 1):
        identity = words.add("FaceCLIPEncodeIdentity", 90, encoder=models.facet5["facet5"], faces=row[2]["faces"])
        placed.y = words.y
        # One negative prompt serves both people: the first one's.
        negative = "" if prompts else FLUX_NEGATIVE_PROMPT
        prompts.append(prompt := _prompt(words, models, f"Person {number}", text, identity["identity"], negative))
        placed.add(
            "ConditioningSetMask",
            120,
            conditioning=prompt["conditioning"],
            mask=mask["MASK"],
            set_cond_area="default",
        )
    first, second = (node["CONDITIONING"] for node in placed.nodes)
    joined = placed.add("ConditioningCombine", 60, conditioning_1=first, conditioning_2=second)
    graph.group("4. Prompts", GREEN, [*words.nodes, *placed.nodes])
    _sample(graph, models, (joined["CONDITIONING"], prompts[0]["negative"]), TWO, 2080, "flux_two_people", 5)
    _explain(graph)
    graph.note(TWO_NOTE, Place(-640, 900, 580, 220), "What this shows")


def _load(graph: Graph, x: int, settings: Settings) -> _Models:
    column = Column(graph, x, 380, gap=100)
    facet5 = column.add("FaceCLIPT5Loader", 90, models=downloads(FACET5), facet5_name=FACET5)
    clip = column.add(
        "DualCLIPLoader",
        130,
        models=[*downloads(T5), *downloads(CLIP)],
        clip_name1=T5,
        clip_name2=CLIP,
        type="flux",
        device="default",
    )
    unet = column.add("UNETLoader", 90, models=downloads(DIT), unet_name=DIT, weight_dtype="default")
    sampling = column.add(
        "ModelSamplingFlux",
        150,
        model=unet["MODEL"],
        max_shift=1.15,
        base_shift=0.5,
        width=settings.width,
        height=settings.height,
    )
    vae = column.add("VAELoader", 60, models=downloads(VAE), vae_name=VAE)
    return _Models(sampling, clip, vae, facet5, column.nodes)


def _prompt(column: Column, models: _Models, title: str, text: str, identity: Socket, negative: str) -> Node:
    return column.add(
        "FaceCLIPT5TextEncode",
        400,
        title,
        clip=models.clip["CLIP"],
        facet5=models.facet5["facet5"],
        prompt=text,
        negative_prompt=negative,
        identity=identity,
    )


def _picture(graph: Graph, models: _Models, identity: Socket, words: str, x: int, first: int = 3) -> None:
    """Prompts, sampler and the saved picture, from `x` to the right."""
    column = Column(graph, x, 480)
    prompts = _prompt(column, models, "Prompt and negative prompt", words, identity, FLUX_NEGATIVE_PROMPT)
    column.group(f"{first}. Prompts", GREEN)
    _sample(graph, models, (prompts["conditioning"], prompts["negative"]), SETTINGS, x + 560, "flux", first + 1)


def _sample(
    graph: Graph, models: _Models, prompts: tuple[Socket, Socket], settings: Settings, x: int, prefix: str, number: int
) -> None:
    column = Column(graph, x, gap=100)
    latent = column.add("EmptySD3LatentImage", 120, width=settings.width, height=settings.height, batch_size=1)
    sample_from(column, (models.model["MODEL"], models.vae), prompts, latent["LATENT"], settings)
    save(graph, column.nodes, Place(x + 380, 0, 480, 580), prefix, number)


def _explain(graph: Graph) -> None:
    graph.note(FLUX_NOTE, Place(-640, 0, 580, 400), "Start here")
    graph.note(MEMORY_NOTE, Place(-640, 460, 580, 380), "Memory, time, settings")


FLUX: Mapping[str, Callable[[Graph], None]] = {
    "FLUX portrait": basic,
    "FLUX two people": two_people,
    "FLUX saved person": saved_identity,
}
