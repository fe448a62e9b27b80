"""Example workflows of several people in one picture: where each stands is a mask of the core."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

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
This one runs on the **mini** model, which knows drawn people only, such as those of *Example Face*. For portraits take
*Load Image* in its place, and choose face_clip_encoder.pt, unet.pt and sdxl_vae.safetensors in *Load FaceCLIP*; in KSampler 50
steps, CFG 5 and *ddim_uniform*; in the *Set Mask* nodes *default*, which looks at the whole picture, while *mask bounds* paints
each part by itself; and
"""
TWO_PEOPLE_NOTE = f"## Two people in one picture\n{_MASKS}{_MINI}1152 x 864 in latent and masks (half of that: 576 x 864)."
THREE_PEOPLE_NOTE = (
    f"## Three people in one picture\n{_MASKS}{_MINI}1344 x 768 in latent and masks "
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
    rows = [photo_to_face(graph, 620 * place, example=place) for place in range(count)]
    graph.group("1. People", BLUE, [node for row in rows for node in row[0]])
    encoder, unet, vae = load_models(graph, MINI, 800, 0)
    graph.group("2. Models", GREEN, [encoder])

    width, full = settings.width // count, (settings.width, settings.height)
    masks = Column(graph, 800, 380, y=360)
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
            graph.add("FaceCLIPEncodeIdentity", Place(1260, y, 320, 120), encoder=encoder["encoder"], faces=faces["faces"])
        )
        at = Place(1620, y, 380, 360)
        encoded.append(write_prompt(graph, encoder, text, at, identities[-1]["identity"], f"Person {place + 1}"))
        conditioning = encoded[-1]["conditioning"]
        placed.append(
            graph.add(
                "ConditioningSetMask",
                Place(2040, y, 280, 120),
                conditioning=conditioning,
                mask=mask["MASK"],
                set_cond_area="mask bounds",
            )
        )
    joined, joints = placed[0], []
    for place in range(1, count):
        joined = graph.add(
            "ConditioningCombine",
            Place(2040, step * place - 160, 280, 60),
            conditioning_1=joined["CONDITIONING"],
            conditioning_2=placed[place]["CONDITIONING"],
        )
        joints.append(joined)
    graph.group("4. Prompts", GREEN, [*identities, *encoded, *placed, *joints])
    prompts = joined["CONDITIONING"], encoded[0]["negative"]
    sampling = sample(graph, (unet, vae), prompts, settings, 2400, 0)
    save(graph, sampling, Place(2760, 0, 420, 580), prefix, 5)


def group_photo(graph: Graph) -> None:
    rows = [photo_to_face(graph, y) for y in (0, 620)]
    graph.group("1. Who is to be in it", BLUE, [*rows[0][0], *rows[1][0]])
    encoder, unet, vae = load_models(graph, SDXL, 800, 0)
    identities = Column(graph, 800, 380, y=300)
    people = [
        identities.add("FaceCLIPEncodeIdentity", 120, name, encoder=encoder["encoder"], faces=row[2]["faces"])["identity"]
        for name, row in zip(_SIDES, rows, strict=True)
    ]
    graph.group("2. Models", GREEN, [encoder, *identities.nodes])

    size = {"width": GROUP.width, "height": GROUP.height}
    start = Column(graph, 1260)
    picture = start.add("LoadImage", 370, "A picture with two faces", image=PHOTO)
    scaled = {"upscale_method": "lanczos", "crop": "center", **size}
    fitted = start.add("ImageScale", 130, "At the picture's size", image=picture["IMAGE"], **scaled)
    latent = start.add("VAEEncode", 60, pixels=fitted["IMAGE"], vae=vae["VAE"])
    options = {"image": fitted["IMAGE"], "order": "left to right"}
    places = [
        graph.add("FaceCLIPDetectFaces", Place(1620 + 400 * number, 0, 360, 520), f"{side} face", index=number, **options)
        for number, side in enumerate(_SIDES)
    ]
    masks = [_around(Column(graph, 1620 + 400 * number, 360, y=620), face["mask"]) for number, face in enumerate(places)]
    graph.group("3. Where they stand", BLUE, [*start.nodes, *places, *(node for column in masks for node in column.nodes)])

    texts = (
        ("The scene, no face", _SCENE, None),
        ("Left person", "a person in a green jacket, laughing, photograph", people[0]),
        ("Right person", "a person in a white shirt, listening, photograph", people[1]),
    )
    scene, left, right = (
        write_prompt(graph, encoder, words, Place(460 * place, 1400, 420, 420), who, title)
        for place, (title, words, who) in enumerate(texts)
    )
    placed = Column(graph, 1380, 300, y=1400)
    joined, joints = scene["conditioning"], Column(graph, 1720, 300, y=1400, gap=160)
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
    graph.group("4. Prompts", GREEN, [scene, left, right, *placed.nodes, *joints.nodes])
    last = Column(graph, 2100, y=1400)
    made = sample_from(last, (unet, vae), (joined, scene["negative"]), latent["LATENT"], GROUP, denoise=0.8)
    saved = graph.add("SaveImage", Place(2480, 1400, 520, 430), images=made["IMAGE"], filename_prefix="FaceCLIP/group")
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
    "Mini two people": two_people,
    "Mini three people": three_people,
    "Group photo": group_photo,
}
