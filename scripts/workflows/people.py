"""Example workflows of several people in one picture: where each stands is a mask of the core."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from faceclip.pipeline import NEGATIVE_PROMPT

from .format import Graph, Place, Socket
from .parts import (
    BLUE,
    GREEN,
    MINI,
    MINI_SAMPLING,
    PHOTO,
    PURPLE,
    SDXL,
    Column,
    Settings,
    explain,
    load_models,
    photo_to_face,
    sample,
    sample_from,
    save,
    write_prompt,
)

_MASKS = """
Identity lives in the conditioning, so core nodes place it: each person's conditioning gets a **mask**, and
*Conditioning (Combine)* joins them. Paint your own masks for other layouts; they may have any size.
"""
_MINI = """
This one runs on the **mini** model, which knows drawn people only (two are in the pack's folder `models/people`). For portraits
choose `face_clip_encoder.pt`, `unet.pt` and `sdxl_vae.safetensors` in the three loaders; in KSampler 50 steps, CFG 5 and
*ddim_uniform*; in the *Set Mask* nodes *default*, which looks at the whole picture, while *mask bounds* paints each part by
itself; and
"""
TWO_PEOPLE_NOTE = (
    f"## Two people in one picture\n{_MASKS}{_MINI}1152 x 864 in latent, prompts and masks (half of that: 576 x 864)."
)
THREE_PEOPLE_NOTE = (
    f"## Three people in one picture\n{_MASKS}{_MINI}1344 x 768 in latent, prompts and masks "
    "(a third of that: 448 x 768, at x = 0, 448 and 896)."
)


GROUP = Settings(width=1152, height=864, steps=50)
GROWN = 80  # pixels that a face's box grows by on each side
_SIDES = ("Left", "Right")
_SCENE = "two people talking on a park bench in autumn, photograph"
GROUP_NOTE = """
## Two people in the places of two others

The faces of *A picture with two faces* say who goes where: each one's box, grown to the head and with a soft border, is the
**mask** of one person's conditioning. The scene's prompt holds everywhere. Only core nodes do it: *Conditioning (Set Mask)* and
*Conditioning (Combine)*.

- The wrong way round? Swap **index** 0 and 1 in *Left face* and *Right face*.
- Old faces shine through? **denoise** up to 0.9. Layout lost? Down to 0.7.
- Hair or shoulders of the one on the other? Grow the masks less.
- A third person: copy *Left face* with its mask, a prompt, *Set Mask* and *Combine*; set **index** to 2.

Change pictures of people only where they agree to it.
"""


def two_people(graph: Graph) -> None:
    texts = [f"a portrait of a person on a sandy beach by the sea, wearing a {clothes}" for clothes in ("red coat", "grey suit")]
    _people(graph, texts, _wide(2), ("Left half", "Right half"), "two_people")
    graph.note(TWO_PEOPLE_NOTE, Place(-520, 0, 460, 280), "Start here")


def three_people(graph: Graph) -> None:
    clothes = ("yellow sweater", "white shirt", "blue hoodie")
    texts = [f"a portrait of a person in front of snowy mountains, wearing a {what}" for what in clothes]
    _people(graph, texts, _wide(3), ("Left", "Middle", "Right"), "three_people")
    graph.note(THREE_PEOPLE_NOTE, Place(-520, 0, 460, 280), "Start here")


def _wide(people: int) -> Settings:
    """As many of the mini model's pictures as people, side by side."""
    return replace(MINI_SAMPLING, width=people * MINI_SAMPLING.width)


def _people(graph: Graph, texts: Sequence[str], settings: Settings, titles: Sequence[str], prefix: str) -> None:
    """Some people beside each other on the mini model, each in a strip of its own."""
    count, step = len(texts), 480
    rows = [photo_to_face(graph, 410 * place) for place in range(count)]
    graph.group("1. Photos", BLUE, [node for row in rows for node in row[0]])
    encoder, unet, vae = load_models(graph, MINI, 1500, 0)
    graph.group("2. Models", GREEN, [encoder, unet, vae])

    width, full = settings.width // count, (settings.width, settings.height)
    masks = Column(graph, 1500, 380, y=480)
    nothing = masks.add("SolidMask", 110, "Everywhere", value=0.0, width=full[0], height=full[1])
    part = masks.add("SolidMask", 110, "One strip", value=1.0, width=width, height=full[1])
    where = [
        masks.add(
            "MaskComposite",
            150,
            title,
            destination=nothing["MASK"],
            source=part["MASK"],
            x=place * width,
            y=0,
            operation="add",
        )
        for place, title in enumerate(titles)
    ]
    masks.group("3. Who stands where", PURPLE)

    identities, encoded, placed = [], [], []
    for place, (text, mask) in enumerate(zip(texts, where, strict=True)):
        y, faces = place * step, rows[place][2]
        identities.append(
            graph.add("FaceCLIPEncodeIdentity", Place(1980, y, 400, 90), encoder=encoder["encoder"], faces=faces["faces"])
        )
        at = Place(1980, y + 140, 400, 300)
        encoded.append(write_prompt(graph, encoder, text, at, settings, identities[-1]["identity"], f"Person {place + 1}"))
        conditioning = encoded[-1]["conditioning"]
        placed.append(
            graph.add(
                "ConditioningSetMask",
                Place(2420, y + 140, 300, 120),
                conditioning=conditioning,
                mask=mask["MASK"],
                set_cond_area="mask bounds",
            )
        )
    joined, joints = placed[0], []
    for place in range(1, count):
        joined = graph.add(
            "ConditioningCombine",
            Place(2420, step * place - 130, 300, 60),
            conditioning_1=joined["CONDITIONING"],
            conditioning_2=placed[place]["CONDITIONING"],
        )
        joints.append(joined)
    below = Place(1980, step * count, 400, 310)
    negative = write_prompt(graph, encoder, NEGATIVE_PROMPT, below, settings, None, "Negative prompt, no face")
    graph.group("4. Prompts", GREEN, [*identities, *encoded, *placed, *joints, negative])
    prompts = joined["CONDITIONING"], negative["conditioning"]
    sampling = sample(graph, (unet, vae), prompts, settings, 2800, 0)
    save(graph, sampling, Place(2800, 640, 480, 580), prefix, 5)


def group_photo(graph: Graph) -> None:
    rows = [photo_to_face(graph, y) for y in (0, 410)]
    graph.group("1. Who is to be in it", BLUE, [*rows[0][0], *rows[1][0]])
    encoder, unet, vae = load_models(graph, SDXL, 1480, 0)
    identities = Column(graph, 1480, 380, y=440)
    people = [
        identities.add("FaceCLIPEncodeIdentity", 90, name, encoder=encoder["encoder"], faces=row[2]["faces"])["identity"]
        for name, row in zip(_SIDES, rows, strict=True)
    ]
    graph.group("2. Models", GREEN, [encoder, unet, vae, *identities.nodes])

    size = {"width": GROUP.width, "height": GROUP.height}
    start = Column(graph, 1940)
    picture = start.add("LoadImage", 330, "A picture with two faces", image=PHOTO)
    scaled = {"upscale_method": "lanczos", "crop": "center", **size}
    fitted = start.add("ImageScale", 130, "At the picture's size", image=picture["IMAGE"], **scaled)
    latent = start.add("VAEEncode", 60, pixels=fitted["IMAGE"], vae=vae["VAE"])
    places = Column(graph, 2300)
    found = [
        places.add(
            "FaceCLIPDetectFaces",
            260,
            f"{side} face",
            image=fitted["IMAGE"],
            order="left to right",
            index=number,
        )
        for number, side in enumerate(_SIDES)
    ]
    places.add("PreviewImage", 270, "Their numbers", images=found[0]["preview"])
    masks = [_around(Column(graph, 2660, 300, y=y, gap=45), face["mask"]) for y, face in zip((0, 480), found, strict=True)]
    graph.group("3. Where they stand", BLUE, [*start.nodes, *places.nodes, *(node for column in masks for node in column.nodes)])

    texts = (
        ("The scene, no face", _SCENE, None),
        ("Left person", "a person in a green jacket, laughing, photograph", people[0]),
        ("Right person", "a person in a white shirt, listening, photograph", people[1]),
        ("Negative prompt, no face", NEGATIVE_PROMPT, None),
    )
    scene, left, right, negative = (
        write_prompt(graph, encoder, words, Place(3040, 360 * place, 400, 310), GROUP, who, title)
        for place, (title, words, who) in enumerate(texts)
    )
    placed = Column(graph, 3480, 300, y=360, gap=240)
    joined, joints = scene["conditioning"], Column(graph, 3820, 300, y=360, gap=300)
    for person, mask in zip((left, right), masks, strict=True):
        here = placed.add(
            "ConditioningSetMask",
            120,
            conditioning=person["conditioning"],
            mask=mask.nodes[-1]["MASK"],
            set_cond_area="default",
        )
        both = joints.add("ConditioningCombine", 60, conditioning_1=joined, conditioning_2=here["CONDITIONING"])
        joined = both["CONDITIONING"]
    graph.group("4. Prompts", GREEN, [scene, left, right, negative, *placed.nodes, *joints.nodes])
    last = Column(graph, 4200)
    made = sample_from(last, (unet, vae), (joined, negative["conditioning"]), latent["LATENT"], GROUP, denoise=0.8)
    saved = graph.add("SaveImage", Place(4560, 0, 620, 560), images=made["IMAGE"], filename_prefix="FaceCLIP/group")
    graph.group("5. Picture", PURPLE, [*last.nodes, saved])
    explain(graph, GROUP_NOTE)


def _around(column: Column, mask: Socket) -> Column:
    """A face's box, grown to the whole head and with a soft border; the last node of the column gives the mask."""
    grown = column.add("GrowMask", 90, mask=mask, expand=GROWN, tapered_corners=True)
    grey = column.add("MaskToImage", 40, mask=grown["MASK"])
    soft = column.add("ImageBlur", 90, image=grey["IMAGE"], blur_radius=31, sigma=10.0)
    column.add("ImageToMask", 60, "Soft border", image=soft["IMAGE"], channel="red")
    return column


PEOPLE: Mapping[str, Callable[[Graph], None]] = {
    "faceclip_two_people": two_people,
    "faceclip_three_people": three_people,
    "faceclip_sdxl_group_photo": group_photo,
}
