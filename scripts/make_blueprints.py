"""Write the subgraph blueprints in `subgraphs/`, which ComfyUI's node library offers as single nodes.

    python scripts/make_blueprints.py OBJECT_INFO.json [FOLDER]

OBJECT_INFO.json is what a ComfyUI with the pack in it answers at http://127.0.0.1:8188/object_info. A
blueprint is a workflow of one node, whose type is the id of the subgraph that the file defines. A file's name
is what users see.
"""

from __future__ import annotations

import argparse
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Beside this file, where Python looks first for a script's imports.
from workflows.format import WIDGET_TYPES, Graph, Node, Place, Socket
from workflows.parts import OFFICIAL, SDXL, load_all

INPUTS, OUTPUTS = -10, -20  # the ids of a subgraph's two ends


@dataclass
class Slot:
    """An input or output of the whole subgraph; one input may lead to several nodes."""

    name: str
    type: str
    links: list[int] = field(default_factory=list)

    def to_dict(self, subgraph: str) -> dict[str, Any]:
        slot_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{subgraph}/{self.name}"))
        return {"id": slot_id, "name": self.name, "type": self.type, "linkIds": self.links}


class Blueprint(Graph):
    """A subgraph in the making.

    `input()` is a socket of the whole; given to a widget, it shows that widget on the node.
    """

    def __init__(self, name: str, object_info: Mapping[str, Any]):
        super().__init__(name, object_info)
        self.inputs: list[Slot] = []
        self.outputs: list[Slot] = []
        self.reached: list[list[str]] = []

    def input(self, name: str, type_name: str) -> Socket:
        """A new input of the whole."""
        self.inputs.append(Slot(name, type_name))
        return Socket(INPUTS, len(self.inputs) - 1, type_name)

    def output(self, name: str, source: Socket) -> None:
        """A new output of the whole."""
        self.outputs.append(Slot(name, source.type))
        self.outputs[-1].links.append(self._connect(source, OUTPUTS, len(self.outputs) - 1))

    def show(self, node: Node, **widgets: Socket) -> None:
        """Let inputs of the whole take the place of a node's widgets, whose values stay the defaults."""
        sockets = self._nodes[node.id - 1]["inputs"]
        for name, source in widgets.items():
            slot = next(place for place, socket in enumerate(sockets) if socket["name"] == name)
            sockets[slot]["link"] = self._connect(source, node.id, slot)

    def reach(self, node: Node, *widgets: str) -> None:
        """Let widgets of a node inside be turned from outside as they are: a seed keeps its control so."""
        self.reached += [[str(node.id), widget] for widget in widgets]

    def to_file(self, description: str, ends: tuple[int, int]) -> dict[str, Any]:
        """The blueprint's file. `ends`: where the inputs and the outputs stand, in pixels from the left."""
        whole = self.to_dict()
        subgraph = whole["id"]
        sockets = [
            {
                "name": slot.name,
                "type": slot.type,
                **({"widget": {"name": slot.name}} if slot.type in WIDGET_TYPES else {}),
                "link": None,
            }
            for slot in self.inputs
        ]
        node = {
            "id": 1,
            "type": subgraph,
            "title": self._name,
            "pos": [0, 0],
            "size": [400, 60 + 26 * max(len(self.inputs), len(self.outputs))],
            "flags": {},
            "order": 0,
            "mode": 0,
            "inputs": sockets,
            "outputs": [{"name": slot.name, "type": slot.type, "links": []} for slot in self.outputs],
            "properties": {"proxyWidgets": self.reached} if self.reached else {},
            "widgets_values": [],
        }
        definition = {
            "id": subgraph,
            "version": 1,
            "state": {
                "lastGroupId": 0,
                "lastNodeId": whole["last_node_id"],
                "lastLinkId": whole["last_link_id"],
                "lastRerouteId": 0,
            },
            "revision": 0,
            "config": {},
            "name": self._name,
            "inputNode": {"id": INPUTS, "bounding": [ends[0], 0, 140, 40 + 20 * len(self.inputs)]},
            "outputNode": {"id": OUTPUTS, "bounding": [ends[1], 0, 140, 40 + 20 * len(self.outputs)]},
            "inputs": [slot.to_dict(subgraph) for slot in self.inputs],
            "outputs": [slot.to_dict(subgraph) for slot in self.outputs],
            "widgets": [],
            "nodes": whole["nodes"],
            "groups": [],
            "links": [_named(link) for link in whole["links"]],
            "extra": {},
        }
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self._name}.json")),
            "revision": 0,
            "last_node_id": 1,
            "last_link_id": 0,
            "nodes": [node],
            "links": [],
            "groups": [],
            "definitions": {"subgraphs": [definition]},
            "config": {},
            "extra": {"BlueprintDescription": description},
            "version": 0.4,
        }

    def _connect(self, source: Socket, target: int, slot: int) -> int:
        link = len(self._links) + 1
        self._links.append([link, source.node, source.slot, target, slot, source.type])
        ends = (
            self.inputs[source.slot].links
            if source.node == INPUTS
            else self._nodes[source.node - 1]["outputs"][source.slot]["links"]
        )
        ends.append(link)
        return link


def _named(link: list[Any]) -> dict[str, Any]:
    """A subgraph's links have names for what a workflow's have places for."""
    return dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), link, strict=True))


def _conditioning(graph: Blueprint, image: Socket, encoder: Socket) -> tuple[Node, Node]:
    """From a photo to both prompts; returns the faces and the prompts."""
    faces = graph.add("FaceCLIPDetectFaces", Place(0, 0, 320, 480), image=image)
    identity = graph.add("FaceCLIPEncodeIdentity", Place(360, 0, 320, 130), encoder=encoder, faces=faces["faces"])
    prompts = graph.add("FaceCLIPTextEncode", Place(720, 0, 500, 480), encoder=encoder, identity=identity["identity"])
    words = {name: graph.input(name, kind) for name, kind in _WORDS.items()}
    graph.show(prompts, **words)
    return faces, prompts


_WORDS = {"prompt": "STRING", "negative_prompt": "STRING", "strength": "FLOAT"}


def face_to_conditioning(graph: Blueprint) -> tuple[str, tuple[int, int]]:
    image, encoder = graph.input("image", "IMAGE"), graph.input("encoder", "FACECLIP_ENCODER")
    faces, prompts = _conditioning(graph, image, encoder)
    graph.output("positive", prompts["conditioning"])
    graph.output("negative", prompts["negative"])
    graph.output("faces", faces["faces"])
    graph.output("preview", faces["preview"])
    return "FaceCLIP: a photo and two prompts to conditioning; detection, identity and text in one node.", (-240, 1300)


def portrait(graph: Blueprint) -> tuple[str, tuple[int, int]]:
    image = graph.input("image", "IMAGE")
    models = load_all(graph, SDXL, Place(0, 600, 320, 200))
    faces, prompts = _conditioning(graph, image, models["encoder"])
    latent = graph.add("EmptyLatentImage", Place(1280, 0, 320, 120), width=OFFICIAL.width, height=OFFICIAL.height)
    sampler = graph.add(
        "KSampler",
        Place(1280, 220, 320, 270),
        model=models["model"],
        positive=prompts["conditioning"],
        negative=prompts["negative"],
        latent_image=latent["LATENT"],
        seed=42,
        steps=OFFICIAL.steps,
        cfg=OFFICIAL.cfg,
        sampler_name="euler",
        scheduler=OFFICIAL.scheduler,
    )
    picture = graph.add("VAEDecode", Place(1280, 590, 320, 60), samples=sampler["LATENT"], vae=models["vae"])
    size = {name: graph.input(name, "INT") for name in ("width", "height", "batch_size")}
    graph.show(latent, **size)
    graph.reach(sampler, "seed", "control_after_generate")
    graph.output("image", picture["IMAGE"])
    graph.output("faces", faces["faces"])
    graph.output("preview", faces["preview"])
    return "FaceCLIP: a photo and a prompt to a picture, with the released weights and the release's settings.", (-240, 1700)


BLUEPRINTS: Mapping[str, Callable[[Blueprint], tuple[str, tuple[int, int]]]] = {
    "FaceCLIP face to conditioning": face_to_conditioning,
    "FaceCLIP portrait": portrait,
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write the subgraph blueprints.")
    parser.add_argument("object_info", type=Path, help="what a running ComfyUI answers at /object_info")
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).resolve().parent.parent / "subgraphs")
    arguments = parser.parse_args(argv)
    object_info = json.loads(arguments.object_info.read_text())
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name, draw in BLUEPRINTS.items():
        graph = Blueprint(name, object_info)
        path = arguments.folder / f"{name}.json"
        path.write_text(json.dumps(graph.to_file(*draw(graph)), indent=2) + "\n", encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
