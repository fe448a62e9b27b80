"""Write the example workflows in `workflows/`.

    python scripts/make_workflows.py OBJECT_INFO.json [FOLDER]

OBJECT_INFO.json is what a ComfyUI with the pack in it answers at http://127.0.0.1:8188/object_info.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# Beside this file, where Python looks first for a script's imports.
from edit_workflows import EDITS
from identity_workflows import IDENTITIES
from model_workflows import MODELS
from workflow_format import Graph, Place
from workflow_parts import (
    BLUE,
    GREEN,
    MINI,
    MINI_SAMPLING,
    OFFICIAL,
    PURPLE,
    SDXL,
    SDXL_NOTE,
    SETTINGS_NOTE,
    Column,
    Settings,
    load_models,
    photo_to_face,
    portrait,
    sample,
    save,
    write_prompt,
)

from faceclip.pipeline import NEGATIVE_PROMPT

MINI_NOTE = """
## FaceCLIP, the whole pipeline in small

1. In *Load Image*, upload one of the **drawn people** in the pack's folder `models/people`.
2. Press **Run**.

This loads the **mini** model that comes with the pack (runs on any CPU in seconds). It has learned **drawn people only**, at
128 px: your own photo comes out as a drawing with your colours, **not as a portrait**. For portraits, open *faceclip_sdxl_basic*.

Look at the two previews: the box must be on the right face, and the crop upright and sharp. Most of a likeness is this crop.
"""
RANK_NOTE = """
## Four pictures, the likest first

*Rank by Face Similarity* compares each picture with the face in the photo. The judge is a face recognition network that FaceCLIP
was not trained with. **dlib** may be used commercially; **insightface** is stricter, for non-commercial use.
"""
_MASKS = """
Identity lives in the conditioning, so core nodes place it: each person's conditioning gets a **mask**, and
*Conditioning (Combine)* joins them. Paint your own masks for other layouts; they may have any size.
"""
_MINI = """
This one runs on the **mini** model, which knows drawn people only (two are in the pack's folder `models/people`). For portraits
choose `face_clip_encoder.pt`, `unet.pt` and `sdxl_vae.safetensors` in the three loaders; in KSampler 50 steps, CFG 5 and
*ddim_uniform*; and
"""
TWO_PEOPLE_NOTE = (
    f"## Two people in one picture\n{_MASKS}{_MINI}1152 x 864 in latent, prompts and masks (half of that: 576 x 864)."
)
THREE_PEOPLE_NOTE = (
    f"## Three people in one picture\n{_MASKS}{_MINI}1344 x 768 in latent, prompts and masks "
    "(a third of that: 448 x 768, at x = 0, 448 and 896)."
)


def mini_demo(graph: Graph) -> None:
    prompt = "a close-up of a person on a sandy beach by the sea, wearing a red hoodie"
    _, sampling = portrait(graph, MINI, MINI_SAMPLING, prompt)
    save(graph, sampling, Place(1480, 640, 480, 580), "mini", 3)
    graph.note(MINI_NOTE, Place(-520, 0, 460, 300), "Start here")


def sdxl_basic(graph: Graph) -> None:
    _, sampling = portrait(graph, SDXL, OFFICIAL, "a person in a blue denim shirt reading in a sunlit library, film photograph")
    save(graph, sampling, Place(1480, 640, 480, 580), "portrait", 3)
    graph.note(SDXL_NOTE, Place(-560, 0, 500, 340), "Start here")
    graph.note(SETTINGS_NOTE, Place(-560, 400, 500, 150), "Settings")


def sdxl_rank(graph: Graph) -> None:
    settings = Settings(OFFICIAL.width, OFFICIAL.height, OFFICIAL.steps, batch=4)
    photo, sampling = portrait(graph, SDXL, settings, "a person as a violinist on a concert stage, dramatic light, photograph")
    ranking = graph.add(
        "FaceCLIPFaceSimilarity", Place(1880, 0, 320, 120), images=sampling[-1]["IMAGE"], reference=photo["IMAGE"]
    )
    graph.group("3. Pictures", PURPLE, sampling)
    scores = graph.add("PreviewAny", Place(1880, 170, 320, 220), title="Scores", source=ranking["scores"])
    best = graph.add("PreviewImage", Place(1880, 440, 320, 480), title="The likest", images=ranking["best"])
    saved = graph.add(
        "SaveImage",
        Place(2240, 0, 620, 920),
        title="All, likest first",
        images=ranking["ranked images"],
        filename_prefix="FaceCLIP/ranked",
    )
    graph.group("4. Ranking", BLUE, [ranking, scores, best, saved])
    graph.note(SDXL_NOTE, Place(-560, 0, 500, 340), "Start here")
    graph.note(RANK_NOTE, Place(-560, 400, 500, 190), "Ranking")


def two_people(graph: Graph) -> None:
    texts = (
        "a woman in a red coat on the left of a street in the rain",
        "a man in a grey suit on the right of a street in the rain",
    )
    _people(graph, texts, Settings(width=384, height=256, steps=20), ("Left half", "Right half"), "two_people")
    graph.note(TWO_PEOPLE_NOTE, Place(-520, 0, 460, 280), "Start here")


def three_people(graph: Graph) -> None:
    texts = (
        "a woman in a yellow dress on the left of a beach by the sea",
        "a man in a white shirt in the middle of a beach by the sea",
        "a woman in a blue jacket on the right of a beach by the sea",
    )
    _people(graph, texts, Settings(width=384, height=192, steps=20), ("Left", "Middle", "Right"), "three_people")
    graph.note(THREE_PEOPLE_NOTE, Place(-520, 0, 460, 280), "Start here")


def _people(graph: Graph, texts: Sequence[str], settings: Settings, titles: Sequence[str], prefix: str) -> None:
    """Some people beside each other on the mini model, each in a strip of its own."""
    count, step = len(texts), 480
    detector = graph.add("FaceCLIPFaceDetectorLoader", Place(0, 410 * count, 320, 120))
    rows = [photo_to_face(graph, detector, 410 * place) for place in range(count)]
    graph.group(f"1. {count} photos", BLUE, [*(node for row in rows for node in row[0]), detector])
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
        at = Place(1980, y + 140, 400, 260)
        encoded.append(write_prompt(graph, encoder, text, at, settings, identities[-1]["identity"], f"Person {place + 1}"))
        conditioning = encoded[-1]["conditioning"]
        placed.append(
            graph.add(
                "ConditioningSetMask",
                Place(2420, y + 140, 300, 120),
                conditioning=conditioning,
                mask=mask["MASK"],
                set_cond_area="default",
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
    below = Place(1980, step * count, 400, 260)
    negative = write_prompt(graph, encoder, NEGATIVE_PROMPT, below, settings, None, "Negative prompt, no face")
    graph.group("4. Prompts", GREEN, [*identities, *encoded, *placed, *joints, negative])
    prompts = joined["CONDITIONING"], negative["conditioning"]
    sampling = sample(graph, (unet, vae), prompts, settings, 2800, 0)
    save(graph, sampling, Place(2800, 640, 480, 580), prefix, 5)


WORKFLOWS: Mapping[str, Callable[[Graph], None]] = {
    "faceclip_mini_demo": mini_demo,
    "faceclip_sdxl_basic": sdxl_basic,
    "faceclip_sdxl_rank": sdxl_rank,
    "faceclip_two_people": two_people,
    "faceclip_three_people": three_people,
    **IDENTITIES,
    **EDITS,
    **MODELS,
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write the example workflows.")
    parser.add_argument("object_info", type=Path, help="what a running ComfyUI answers at /object_info")
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).resolve().parent.parent / "workflows")
    arguments = parser.parse_args(argv)
    object_info = json.loads(arguments.object_info.read_text())
    for name, draw in WORKFLOWS.items():
        graph = Graph(name, object_info)
        draw(graph)
        path = arguments.folder / f"{name}.json"
        path.write_text(json.dumps(graph.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
