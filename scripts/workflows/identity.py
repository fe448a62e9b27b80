"""Example workflows about who is in the picture: several photos, a
blend, a saved identity, and when the face has a say."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from faceclip.pipeline import NEGATIVE_PROMPT

from .format import Graph, Node, Place, Socket
from .parts import (
    BLUE,
    GREEN,
    OFFICIAL,
    PURPLE,
    SDXL,
    Column,
    explain,
    load_models,
    one_person,
    photo_to_face,
    read_photo,
    sample,
    save,
    write_prompt,
)

SAVED = "my_person"
REFERENCES_NOTE = """
## Several photos of one person

Each photo gives one crop; *Batch Images* joins them, and **combine: average** makes one identity of them. What they share stays,
what one of them has alone (light, expression, a bad angle) fades. Two to five sharp photos are enough.

More photos: copy a row, and add another *Batch Images*.
"""
BLEND_NOTE = """
## Between two people

*Blend Identities* mixes two identities: **ratio** 0 is the first person, 1 the second, 0.5 the middle.
Both keep their weight in between, so a series from 0 to 1 moves evenly.
"""
SAVE_NOTE = f"""
## Keep a person

*Save Identity* writes what FaceCLIP saw of the face to `output/faceclip_identities`: a small file with no photo in it. If there
is a file of that name already, a number is added: nothing is overwritten.

Then open *faceclip_sdxl_saved_identity* and choose `{SAVED}.safetensors`.
"""
SAVED_NOTE = """
## A person without the photo

*Load Identity* reads what *Save Identity* wrote (workflow *faceclip_sdxl_save_identity*). Neither the photo nor a face detector
is needed. Press **R** if a new file is not in the list. The file fits the encoder that it was made with.
"""
TIMESTEP_NOTE = """
## The prompt first, then the face

The first fifth of the steps lays out the picture. Here it follows the prompt **without** the face; the face comes in afterwards.
That helps when a portrait pushes itself to the front: small figures, unusual poses, wide scenes.

Move the border (0.2) in both *ConditioningSetTimestepRange* nodes: later gives the prompt more say, earlier the face.
"""
FOLDER = "my_people"
FOLDER_NOTE = f"""
## A picture of everyone in a folder

Put photos into a folder below ComfyUI's `input`, here `input/{FOLDER}`, press **R**, and choose the folder. Each photo is worked
on by itself, whatever its size, and gives one picture.

- **on_no_face: skip** leaves out photos in which no face is found; *Which face* shows them without a box.
- *Rebatch Images* drops what the skipped ones leave empty. Keep its **batch_size** at 1: one identity for each photo.
- All faces of each photo? Raise **count** in *Detect Faces*.
"""


def references(graph: Graph) -> None:
    rows = [photo_to_face(graph, y) for y in (0, 410, 820)]
    graph.group("1. Photos of one person", BLUE, [node for row in rows for node in row[0]])
    faces = [row[2]["faces"] for row in rows]
    column = Column(graph, 1480)
    two = column.add("ImageBatch", 50, image1=faces[0], image2=faces[1])
    three = column.add("ImageBatch", 50, image1=two["IMAGE"], image2=faces[2])
    encoder, unet, vae = load_models(graph, SDXL, 1480, 280)
    column.y = 720
    identity = column.add(
        "FaceCLIPEncodeIdentity",
        90,
        "One person of three photos",
        encoder=encoder["encoder"],
        faces=three["IMAGE"],
        combine="average",
    )
    graph.group("2. One identity", GREEN, [*column.nodes, encoder, unet, vae])
    _picture(
        graph, (encoder, unet, vae), identity["identity"], "a person as a lighthouse keeper in the evening sun, photograph", 1940
    )
    explain(graph, REFERENCES_NOTE)


def blend(graph: Graph) -> None:
    rows = [photo_to_face(graph, y) for y in (0, 410)]
    graph.group("1. Two people", BLUE, [*rows[0][0], *rows[1][0]])
    encoder, unet, vae = load_models(graph, SDXL, 1480, 0)
    column = Column(graph, 1480, y=440)
    first, second = (
        column.add("FaceCLIPEncodeIdentity", 90, name, encoder=encoder["encoder"], faces=row[2]["faces"])
        for name, row in zip(("The first", "The second"), rows, strict=True)
    )
    mixed = column.add("FaceCLIPBlendIdentities", 90, first=first["identity"], second=second["identity"])
    graph.group("2. Blend", GREEN, [encoder, unet, vae, *column.nodes])
    _picture(graph, (encoder, unet, vae), mixed["identity"], "a portrait of a person in a wool coat, overcast, photograph", 1940)
    explain(graph, BLEND_NOTE)


def save_identity(graph: Graph) -> None:
    _, faces = read_photo(graph)
    encoder, unet, vae = load_models(graph, SDXL, 1480, 0)
    column = Column(graph, 1480, y=440)
    identity = column.add("FaceCLIPEncodeIdentity", 90, encoder=encoder["encoder"], faces=faces["faces"])
    kept = column.add("FaceCLIPSaveIdentity", 90, identity=identity["identity"], name=SAVED)
    column.add("PreviewAny", 120, "The file's name", source=kept["file"])
    graph.group("2. Keep the identity", GREEN, [encoder, unet, vae, *column.nodes])
    _picture(graph, (encoder, unet, vae), kept["identity"], "a person in a raincoat on a pier, photograph", 1940)
    explain(graph, SAVE_NOTE)


def saved_identity(graph: Graph) -> None:
    encoder, unet, vae = load_models(graph, SDXL, 0, 0)
    column = Column(graph, 0, 380, y=440)
    identity = column.add("FaceCLIPLoadIdentity", 60, file_name=f"{SAVED}.safetensors")
    graph.group("1. Models and person", BLUE, [encoder, unet, vae, *column.nodes])
    _picture(graph, (encoder, unet, vae), identity["identity"], "a person feeding pigeons in a square, photograph", 480)
    explain(graph, SAVED_NOTE)


def timestep_range(graph: Graph) -> None:
    border = 0.2
    encoder, unet, vae, identity = one_person(graph)
    words = "a person riding a camel in front of the pyramids, far away, wide shot, photograph"
    prompts, ranges = Column(graph, 1940, 420), Column(graph, 2420)
    parts = []
    for title, who, start, end in (
        ("First: the prompt alone", None, 0.0, border),
        ("Then: the prompt with the face", identity, border, 1.0),
    ):
        text = prompts.add(
            "FaceCLIPTextEncode",
            310,
            title,
            encoder=encoder["encoder"],
            identity=who,
            prompt=words,
            width=OFFICIAL.width,
            height=OFFICIAL.height,
        )
        parts.append(
            ranges.add("ConditioningSetTimestepRange", 310, conditioning=text["conditioning"], start=start, end=end)[
                "CONDITIONING"
            ]
        )
    both = ranges.add("ConditioningCombine", 60, conditioning_1=parts[0], conditioning_2=parts[1])
    negative = prompts.add(
        "FaceCLIPTextEncode",
        310,
        "Negative prompt, no face",
        encoder=encoder["encoder"],
        prompt=NEGATIVE_PROMPT,
        width=OFFICIAL.width,
        height=OFFICIAL.height,
    )
    graph.group("3. Who has a say when", GREEN, [*prompts.nodes, *ranges.nodes])
    sampling = sample(graph, (unet, vae), (both["CONDITIONING"], negative["conditioning"]), OFFICIAL, 2840, 0)
    save(graph, sampling, Place(2840, 640, 480, 580), "timestep_range", 4)
    explain(graph, TIMESTEP_NOTE)


def folder(graph: Graph) -> None:
    column = Column(graph, 0)
    photos = column.add("LoadImageDataSetFromFolder", 60, "Photos of a folder", folder=FOLDER)
    found = column.add("FaceCLIPDetectFaces", 260, image=photos["images"], on_no_face="skip")
    seen = graph.add("PreviewImage", Place(360, 0, 460, 400), "Which face", images=found["preview"])
    faces = graph.add("RebatchImages", Place(360, 480, 460, 60), "One by one, without the skipped", images=found["faces"])
    graph.group("1. Photos", BLUE, [*column.nodes, seen, faces])
    encoder, unet, vae = load_models(graph, SDXL, 900, 0)
    identity = graph.add(
        "FaceCLIPEncodeIdentity",
        Place(900, 440, 380, 90),
        "Everyone's identity",
        encoder=encoder["encoder"],
        faces=faces["IMAGE"],
    )
    graph.group("2. Models", GREEN, [encoder, unet, vae, identity])
    words = "a person in a winter coat in falling snow, evening light, photograph"
    _picture(graph, (encoder, unet, vae), identity["identity"], words, 1360)
    explain(graph, FOLDER_NOTE)


def _picture(graph: Graph, models: tuple[Node, Node, Node], identity: Socket, words: str, x: int) -> None:
    """Prompts, sampler and the saved picture, from `x` to the right."""
    encoder, unet, vae = models
    positive = write_prompt(graph, encoder, words, Place(x, 0, 480, 310), OFFICIAL, identity, "Prompt, with the face")
    negative = write_prompt(graph, encoder, NEGATIVE_PROMPT, Place(x, 370, 480, 310), OFFICIAL, None, "Negative prompt, no face")
    graph.group("3. Prompts", GREEN, [positive, negative])
    sampling = sample(graph, (unet, vae), (positive["conditioning"], negative["conditioning"]), OFFICIAL, x + 560, 0)
    saved = graph.add("SaveImage", Place(x + 920, 0, 480, 580), images=sampling[-1]["IMAGE"], filename_prefix="FaceCLIP/identity")
    graph.group("4. Picture", PURPLE, [*sampling, saved])


IDENTITIES: Mapping[str, Callable[[Graph], None]] = {
    "faceclip_sdxl_references": references,
    "faceclip_sdxl_blend": blend,
    "faceclip_sdxl_save_identity": save_identity,
    "faceclip_sdxl_saved_identity": saved_identity,
    "faceclip_sdxl_timestep_range": timestep_range,
    "faceclip_sdxl_folder": folder,
}
