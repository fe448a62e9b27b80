"""Write the example workflows in `workflows/`.

    python scripts/make_workflows.py OBJECT_INFO.json [FOLDER]

OBJECT_INFO.json is what a ComfyUI with the pack in it answers at http://127.0.0.1:8188/object_info.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path

# Beside this file, where Python looks first for a script's imports.
from workflows.edits import EDITS
from workflows.flux import FLUX
from workflows.format import Graph, Place
from workflows.identity import IDENTITIES
from workflows.models import MODELS
from workflows.names import TITLES, file_name
from workflows.parts import (
    BLUE,
    MINI,
    MINI_SAMPLING,
    OFFICIAL,
    PURPLE,
    SDXL,
    SDXL_NOTE,
    SETTINGS_NOTE,
    Settings,
    portrait,
    save,
)
from workflows.people import PEOPLE
from workflows.runs import RUNS

MINI_NOTE = f"""
## FaceCLIP, the whole pipeline in small

Press **Run**. *Example Face* gives a drawn person that comes with the pack: choose another one there.

This loads the **mini** model that comes with the pack (runs on any CPU in seconds). It has learned **drawn people only**, at
128 px: of your own photo (*Load Image* in the place of *Example Face*) comes a drawing with your colours, **not a portrait**. For
portraits, open *{file_name("Portrait")}*.

*Detect Faces* shows what it found: the box must be on the right face, and the crop upright and sharp. Most of a
likeness is this crop.
"""
RANK_NOTE = """
## Four pictures, the most similar first

*Rank by Face Similarity* compares each picture with the face in the photo. The judge is a face recognition network that FaceCLIP
was not trained with. **dlib** may be used commercially; **insightface** is stricter, for non-commercial use.
"""


def mini_demo(graph: Graph) -> None:
    prompt = "a close-up of a person on a sandy beach by the sea, wearing a red hoodie"
    *_, sampling = portrait(graph, MINI, MINI_SAMPLING, prompt, example=0)
    save(graph, sampling, Place(2180, 0, 320, 340), "mini", 4)
    graph.note(MINI_NOTE, Place(-520, 0, 460, 360), "Start here")


def sdxl_basic(graph: Graph) -> None:
    *_, sampling = portrait(graph, SDXL, OFFICIAL, "a person in a blue denim shirt reading in a sunlit library, film photograph")
    save(graph, sampling, Place(2180, 0, 480, 580), "portrait", 4)
    graph.note(SDXL_NOTE, Place(-560, 0, 500, 340), "Start here")
    graph.note(SETTINGS_NOTE, Place(-560, 400, 500, 150), "Settings")


def sdxl_rank(graph: Graph) -> None:
    settings = Settings(OFFICIAL.width, OFFICIAL.height, OFFICIAL.steps, batch=4)
    photo, _, sampling = portrait(graph, SDXL, settings, "a person as a violinist on a concert stage, dramatic light, photograph")
    ranking = graph.add(
        "FaceCLIPFaceSimilarity", Place(2220, 0, 320, 420), images=sampling[-1]["IMAGE"], reference=photo["IMAGE"]
    )
    graph.group("4. Pictures", PURPLE, sampling)
    scores = graph.add("PreviewAny", Place(2220, 520, 320, 180), title="Scores", source=ranking["scores"])
    best = graph.add("PreviewImage", Place(2220, 800, 320, 360), title="Most similar", images=ranking["best"])
    saved = graph.add(
        "SaveImage",
        Place(2580, 0, 560, 1040),
        title="All, most similar first",
        images=ranking["ranked images"],
        filename_prefix="FaceCLIP/ranked",
    )
    graph.group("5. Ranking", BLUE, [ranking, scores, best, saved])
    graph.note(SDXL_NOTE, Place(-560, 0, 500, 340), "Start here")
    graph.note(RANK_NOTE, Place(-560, 400, 500, 190), "Ranking")


WORKFLOWS: Mapping[str, Callable[[Graph], None]] = {
    "Mini demo": mini_demo,
    "Portrait": sdxl_basic,
    "Best of four": sdxl_rank,
    **IDENTITIES,
    **EDITS,
    **MODELS,
    **PEOPLE,
    **RUNS,
    **FLUX,
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write the example workflows.")
    parser.add_argument("object_info", type=Path, help="what a running ComfyUI answers at /object_info")
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).resolve().parent.parent / "workflows")
    arguments = parser.parse_args(argv)
    object_info = json.loads(arguments.object_info.read_text())
    for title in TITLES:
        graph = Graph(f"FaceCLIP {title}", object_info)
        WORKFLOWS[title](graph)
        path = arguments.folder / f"{file_name(title)}.json"
        path.write_text(json.dumps(graph.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
