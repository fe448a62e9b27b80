"""Example workflows about who is in the picture: several photos, a
blend, a saved identity, and when the face has a say."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .format import Graph, Node, Place, Socket
from .names import file_name
from .parts import (
    BLUE,
    GREEN,
    OFFICIAL,
    PROMPTS,
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

Then open *{file_name("Saved person")}* and choose `{SAVED}.safetensors`.
"""
SAVED_NOTE = f"""
## A person without the photo

*Load Identity* reads what *Save Identity* wrote (workflow *{file_name("Save a person")}*). Neither the photo nor a face detector
is needed. Press **R** if a new file is not in the list. The file fits the encoder that it was made with.
"""
TIMESTEP_NOTE = """
## The prompt first, then the face

The first fifth of the steps lays out the picture. Here it follows the prompt **without** the face; the face comes in afterwards.
That helps when a portrait pushes itself to the front: small figures, unusual poses, wide scenes.

Move **start_percent** (0.2) in *FaceCLIP Text Encode*: later gives the prompt more say, earlier the face.
**strength_schedule** says more, such as 0:0.4, 0.3:1. Both make plain conditioning with timestep ranges, as
*ConditioningSetTimestepRange* does.
"""
FOLDER = "my_people"
FOLDER_NOTE = f"""
## A picture of everyone in a folder

Put photos into a folder below ComfyUI's `input`, here `input/{FOLDER}`, press **R**, and choose the folder. Each photo is worked
on by itself, whatever its size, and gives one picture.

- **on_no_face: skip** leaves out photos in which no face is found; *Detect Faces* shows them without a box.
- *Rebatch Images* drops what the skipped ones leave empty. Keep its **batch_size** at 1: one identity for each photo.
- All faces of each photo? Raise **count** in *Detect Faces*.
"""


def references(graph: Graph) -> None:
    rows = [photo_to_face(graph, y) for y in (0, 620, 1240)]
    graph.group("1. Photos of one person", BLUE, [node for row in rows for node in row[0]])
    faces = [row[2]["faces"] for row in rows]
    column = Column(graph, 800)
    two = column.add("ImageBatch", 50, image1=faces[0], image2=faces[1])
    three = column.add("ImageBatch", 50, image1=two["IMAGE"], image2=faces[2])
    encoder, unet, vae = load_models(graph, SDXL, 800, 300)
    column.y = 600
    identity = column.add(
        "FaceCLIPEncodeIdentity",
        120,
        "One person of three photos",
        encoder=encoder["encoder"],
        faces=three["IMAGE"],
        combine="average",
    )
    graph.group("2. One identity", GREEN, [*column.nodes, encoder])
    _picture(
        graph, (encoder, unet, vae), identity["identity"], "a person as a lighthouse keeper in the evening sun, photograph", 1260
    )
    explain(graph, REFERENCES_NOTE)


def blend(graph: Graph) -> None:
    rows = [photo_to_face(graph, y) for y in (0, 620)]
    graph.group("1. Two people", BLUE, [*rows[0][0], *rows[1][0]])
    encoder, unet, vae = load_models(graph, SDXL, 800, 0)
    column = Column(graph, 800, y=300)
    first, second = (
        column.add("FaceCLIPEncodeIdentity", 120, name, encoder=encoder["encoder"], faces=row[2]["faces"])
        for name, row in zip(("The first", "The second"), rows, strict=True)
    )
    mixed = column.add("FaceCLIPBlendIdentities", 90, first=first["identity"], second=second["identity"])
    graph.group("2. Blend", GREEN, [encoder, *column.nodes])
    _picture(graph, (encoder, unet, vae), mixed["identity"], "a portrait of a person in a wool coat, overcast, photograph", 1260)
    explain(graph, BLEND_NOTE)


def save_identity(graph: Graph) -> None:
    _, faces = read_photo(graph)
    encoder, unet, vae = load_models(graph, SDXL, 800, 0)
    column = Column(graph, 800, y=300)
    identity = column.add("FaceCLIPEncodeIdentity", 120, encoder=encoder["encoder"], faces=faces["faces"])
    kept = column.add("FaceCLIPSaveIdentity", 90, identity=identity["identity"], name=SAVED)
    column.add("PreviewAny", 120, "The file's name", source=kept["file"])
    graph.group("2. Keep the identity", GREEN, [encoder, *column.nodes])
    _picture(graph, (encoder, unet, vae), kept["identity"], "a person in a raincoat on a pier, photograph", 1260)
    explain(graph, SAVE_NOTE)


def saved_identity(graph: Graph) -> None:
    encoder, unet, vae = load_models(graph, SDXL, 0, 0)
    column = Column(graph, 0, 380, y=300)
    identity = column.add("FaceCLIPLoadIdentity", 60, file_name=f"{SAVED}.safetensors")
    graph.group("1. Models and person", BLUE, [encoder, *column.nodes])
    _picture(graph, (encoder, unet, vae), identity["identity"], "a person feeding pigeons in a square, photograph", 480)
    explain(graph, SAVED_NOTE)


def timestep_range(graph: Graph) -> None:
    encoder, unet, vae, identity = one_person(graph)
    words = "a person riding a camel in front of the pyramids, far away, wide shot, photograph"
    prompts = write_prompt(graph, encoder, words, Place(1260, 0, 480, PROMPTS), identity, start_percent=0.2)
    graph.group("3. Who has a say when", GREEN, [prompts])
    sampling = sample(graph, (unet, vae), (prompts["conditioning"], prompts["negative"]), OFFICIAL, 1820, 0)
    save(graph, sampling, Place(2180, 0, 480, 580), "timestep_range", 4)
    explain(graph, TIMESTEP_NOTE)


def folder(graph: Graph) -> None:
    column = Column(graph, 0, 360)
    photos = column.add("LoadImageDataSetFromFolder", 60, "Photos of a folder", folder=FOLDER)
    found = column.add("FaceCLIPDetectFaces", 520, image=photos["images"], on_no_face="skip")
    faces = graph.add("RebatchImages", Place(420, 0, 400, 60), "One by one, without the skipped", images=found["faces"])
    graph.group("1. Photos", BLUE, [*column.nodes, faces])
    encoder, unet, vae = load_models(graph, SDXL, 900, 0)
    identity = graph.add(
        "FaceCLIPEncodeIdentity",
        Place(900, 300, 380, 120),
        "Everyone's identity",
        encoder=encoder["encoder"],
        faces=faces["IMAGE"],
    )
    graph.group("2. Models", GREEN, [encoder, identity])
    words = "a person in a winter coat in falling snow, evening light, photograph"
    _picture(graph, (encoder, unet, vae), identity["identity"], words, 1360)
    explain(graph, FOLDER_NOTE)


def _picture(graph: Graph, models: tuple[Node, Node, Node], identity: Socket, words: str, x: int) -> None:
    """Prompts, sampler and the saved picture, from `x` to the right."""
    encoder, unet, vae = models
    prompts = write_prompt(graph, encoder, words, Place(x, 0, 480, PROMPTS), identity)
    graph.group("3. Prompts", GREEN, [prompts])
    sampling = sample(graph, (unet, vae), (prompts["conditioning"], prompts["negative"]), OFFICIAL, x + 560, 0)
    saved = graph.add("SaveImage", Place(x + 920, 0, 480, 580), images=sampling[-1]["IMAGE"], filename_prefix="FaceCLIP/identity")
    graph.group("4. Picture", PURPLE, [*sampling, saved])


IDENTITIES: Mapping[str, Callable[[Graph], None]] = {
    "Several photos": references,
    "Blend two people": blend,
    "Save a person": save_identity,
    "Saved person": saved_identity,
    "Face comes later": timestep_range,
    "Folder of photos": folder,
}
